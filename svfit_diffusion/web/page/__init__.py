"""web.page."""
