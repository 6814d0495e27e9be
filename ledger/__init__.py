"""What happened, and what is asked for, in Postgres: the only room that speaks SQL."""
