"""The publish side: partition queues and one sender a broker."""
