// The parts that pages are built of, by one import.
export * from "./api.js";
export * from "./dialogs.js";
export * from "./dom.js";
export * from "./format.js";
export * from "./forms.js";
export * from "./notices.js";
export * from "./router.js";
export * from "./tables.js";
export * from "./source.js";
export * from "./charts.js";
export * from "./history.js";
export * from "./open_mode.js";
