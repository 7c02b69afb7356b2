"""How the database came to be what it is, a step a file; alembic runs them."""
