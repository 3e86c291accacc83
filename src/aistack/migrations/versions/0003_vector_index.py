"""A vector table begins without an HNSW index: aidb builds it once it is wanted.

    aidb_create_vector_table(set_id)   as in 0001, less the index; an index that exists stays.
                                       Locks nothing where the table exists.
    embedding_sets.retired_at          since when a set is retired; its table is dropped later.

An index of a vector table is named vectors_<set id>_hnsw (of vectors) or vectors_<set id>_hnsw_half
(of half-precision copies, made by the index itself). It is built, checked and dropped by
aistack.aidb.vector_index, nowhere else.

Down builds the index of every table in the one transaction of the migration, as 0001 had it: with
100,000 vectors that takes about a minute.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from aistack.migrations.statements import run

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

UP = """
ALTER TABLE embedding_sets ADD COLUMN retired_at timestamptz;
UPDATE embedding_sets SET retired_at = now() WHERE state = 'retired';

CREATE OR REPLACE FUNCTION aidb_create_vector_table(set_id integer) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    wanted embedding_sets%ROWTYPE;
BEGIN
    SELECT * INTO STRICT wanted FROM embedding_sets WHERE id = set_id FOR UPDATE;
    -- The statements below would wait for every writer and every build of an index, and hold up all
    -- searches meanwhile.
    IF to_regclass(wanted.table_name) IS NOT NULL THEN
        RETURN wanted.table_name;
    END IF;
    EXECUTE format(
        'CREATE TABLE %I (
             chunk_id      bigint PRIMARY KEY REFERENCES chunks (id) ON DELETE CASCADE
                           DEFERRABLE INITIALLY DEFERRED,
             collection_id integer NOT NULL,
             embedding     vector(%s) NOT NULL)', wanted.table_name, wanted.dimension);
    -- In the row itself, where an exact scan reads it; longer vectors do not fit in a page.
    IF wanted.dimension <= 1900 THEN
        EXECUTE format('ALTER TABLE %I ALTER COLUMN embedding SET STORAGE PLAIN',
                       wanted.table_name);
    END IF;
    EXECUTE format('CREATE INDEX %I ON %I (collection_id)',
                   wanted.table_name || '_collection', wanted.table_name);
    RETURN wanted.table_name;
END $$;
"""

DOWN = """
CREATE OR REPLACE FUNCTION aidb_create_vector_table(set_id integer) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    wanted embedding_sets%ROWTYPE;
BEGIN
    SELECT * INTO STRICT wanted FROM embedding_sets WHERE id = set_id FOR UPDATE;
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS %I (
             chunk_id      bigint PRIMARY KEY REFERENCES chunks (id) ON DELETE CASCADE
                           DEFERRABLE INITIALLY DEFERRED,
             collection_id integer NOT NULL,
             embedding     vector(%s) NOT NULL)', wanted.table_name, wanted.dimension);
    -- In the row itself, where an exact scan reads it; longer vectors do not fit in a page.
    IF wanted.dimension <= 1900 THEN
        EXECUTE format('ALTER TABLE %I ALTER COLUMN embedding SET STORAGE PLAIN',
        wanted.table_name);
    END IF;
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %I (collection_id)',
                   wanted.table_name || '_collection', wanted.table_name);
    -- pgvector indexes at most 2,000 dimensions of type vector; above that the search is exact.
    IF wanted.dimension <= 2000 THEN
        EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %I USING hnsw (embedding vector_ip_ops)',
                       wanted.table_name || '_hnsw', wanted.table_name);
    END IF;
    RETURN wanted.table_name;
END $$;

DO $$
DECLARE
    unwanted text;
BEGIN
    FOR unwanted IN
        SELECT c.relname FROM embedding_sets s
          JOIN pg_index i ON i.indrelid = to_regclass(s.table_name)
          JOIN pg_class c ON c.oid = i.indexrelid
         WHERE c.relname = s.table_name || '_hnsw_half'
            OR (c.relname = s.table_name || '_hnsw' AND NOT i.indisvalid)
    LOOP
        EXECUTE format('DROP INDEX %I', unwanted);
    END LOOP;
END $$;
-- Constraints first: an index cannot be made on a table that waits for checks.
SET CONSTRAINTS ALL IMMEDIATE;
SELECT aidb_create_vector_table(id) FROM embedding_sets ORDER BY id;

ALTER TABLE embedding_sets DROP COLUMN retired_at;
"""


def upgrade() -> None:
    run(UP)


def downgrade() -> None:
    run(DOWN)
