"""The gateway's rules: knows neither HTTP nor a driver."""
