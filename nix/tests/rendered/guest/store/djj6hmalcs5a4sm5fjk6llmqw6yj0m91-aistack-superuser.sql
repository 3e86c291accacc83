SELECT pg_is_in_recovery() AS standby \gset
\if :standby
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vector;
ALTER EXTENSION vector UPDATE;

GRANT pg_monitor TO "postgres-exporter";
