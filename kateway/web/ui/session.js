// Who is signed in, and what that role may do. The server refuses anyway: this only hides what it would refuse.
import { call, Problem, sessionHalf } from "./api.js";
class Session {
  constructor(found) {
    const { token_needed: needed = false, role = null, name = null, application = null, gateway, may: calls } = found;
    Object.assign(this, { needed, role, name, application, gateway, calls });
  }
  /** Whether the session may make a call, by the name that GET session gives it: an application's own of what is its `owner`'s. */
  may(call_, owner) {
    return (this.calls?.includes(call_) ?? true) && (!this.application || owner === undefined || owner === this.application);
  }
}

/** The session as the gateway knows it; null where one has to sign in first. */
export async function whoami() {
  try {
    const { data } = await call("GET", "session");
    return data.token_needed && !data.role && !data.application ? null : new Session(data);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return null;
    throw error;
  }
}

export async function signIn(secret) {
  const { data } = await call("POST", "session", { json: secret });
  sessionHalf.set(data.session);
}

export async function signOut() {
  try {
    await call("DELETE", "session");
  } finally {
    sessionHalf.set(null);
  }
}
