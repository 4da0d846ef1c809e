"""Authentication, authorisation, rate limits, and the streams that end with a permission."""
