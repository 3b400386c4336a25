"""What the dashboard costs a service with a large pool, and how soon a browser shows it."""
