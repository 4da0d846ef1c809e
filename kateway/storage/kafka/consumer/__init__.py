"""The subscribe side: group membership and fetching."""
