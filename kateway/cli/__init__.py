"""kateway-admin: a client of the admin API."""
