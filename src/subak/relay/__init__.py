"""Publisher, subscriber and the hub joining them: may know core, upstream, replay; never admission, web or HTTP."""
