"""Serves the admin API: ``/admin/v1/…`` on the admin listener."""
