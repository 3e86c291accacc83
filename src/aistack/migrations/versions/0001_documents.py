"""Collections, documents, chunks, BM25 postings, embedding sets, outbox.

The tables, and what each is for (arrows are foreign keys):

    collections        name, settings (read by nobody yet), epoch (+1 in every change a search
                       could see), and what BM25 needs of the whole: chunk_count and total_length
                       (sum of chunks.term_count; average length = total_length / chunk_count)
    documents          -> collections. One row per (collection_id, source). `version` counts the
                       uploads of changed bytes; `ready_version` is the one whose chunks are
                       searchable (NULL: none yet). state pending|processing|ready|failed.
                       metadata is flat typed JSON (string, number, boolean, list of strings).
                       title, content_type and metadata are what searches show and filter by:
                       while newer bytes wait behind a searchable version, theirs are in `pending`
                       ({title, content_type, metadata}) and take their place in the swap.
                       sha256, byte_size and key_id are of the newest upload.
                       `error` of an unfinished document says what it waits for. `analyzer` is
                       the version of the lexical analysis its chunks' terms were made with.
                       Shown title: coalesce(title, parsed_title, source).
    document_contents  -> documents. The uploaded bytes.
    document_texts     -> documents. The parsed text that the character spans of chunks refer to.
    chunks             -> documents, collections. text and its spans; embed_prefix || text is what
                       was embedded and analysed. `terms` (distinct) and `term_frequencies` are
                       parallel arrays; term_count is their sum, the chunk's length for BM25.
    terms              -> collections. (collection_id, term) -> id, document_frequency (chunks of
                       the collection that hold the term). Rows at 0 are removed.
    postings           (term_id, chunk_id) -> frequency, length (a copy of chunks.term_count, so
                       that scoring reads one index and no heap).
    embedding_sets     one row per model identity; state filling|active|retired, one active at most.
    vectors_<set id>   -> chunks. chunk_id, collection_id, embedding vector(dimension); HNSW index
                       on vector_ip_ops. Made by aidb_create_vector_table(set_id), nowhere else.
    outbox             what derived indexes must be told, written in the transaction of the change.

`terms`, `postings` and the counts of `collections` are a function of the rows of `chunks`: two
statement triggers keep them so under every insert, COPY, delete and cascade. A writer locks the
collection's row first (the triggers do it too); term rows of one collection therefore have one
writer at a time and cannot deadlock.

A BM25 query reads:

    SELECT p.chunk_id, sum(idf(t.document_frequency) * tf(p.frequency, p.length))
    FROM terms t JOIN postings p ON p.term_id = t.id
    WHERE t.collection_id = %s AND t.term = ANY(%s) GROUP BY p.chunk_id

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from aistack.migrations.statements import run

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

TABLES = """
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE collections (
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$'),
    description  text NOT NULL DEFAULT '',
    settings     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    epoch        bigint NOT NULL DEFAULT 0,
    chunk_count  bigint NOT NULL DEFAULT 0 CHECK (chunk_count >= 0),
    total_length bigint NOT NULL DEFAULT 0 CHECK (total_length >= 0),
    key_id       text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);

-- No cascade from collections: terms and documents must go in the order that leaves no posting
-- behind.
CREATE TABLE documents (
    id            uuid PRIMARY KEY,
    collection_id integer NOT NULL REFERENCES collections (id),
    source        text NOT NULL CHECK (octet_length(source) BETWEEN 1 AND 2048),
    title         text,
    parsed_title  text,
    content_type  text NOT NULL,
    sha256        bytea NOT NULL CHECK (octet_length(sha256) = 32),
    byte_size     bigint NOT NULL CHECK (byte_size >= 0),
    metadata      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    pending       jsonb CHECK (jsonb_typeof(pending) = 'object'),
    state         text NOT NULL DEFAULT 'pending'
                  CHECK (state IN ('pending', 'processing', 'ready', 'failed')),
    error         text,
    version       integer NOT NULL DEFAULT 1,
    ready_version integer,
    interruptions integer NOT NULL DEFAULT 0,
    job_id        bigint,
    chunk_count   integer NOT NULL DEFAULT 0,
    analyzer      text,
    key_id        text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (collection_id, source),
    CHECK (ready_version <= version),
    CHECK (state <> 'failed' OR error IS NOT NULL),
    CHECK (pending IS NULL OR ready_version < version),
    CHECK (state <> 'ready' OR (ready_version = version AND error IS NULL))
);
CREATE INDEX documents_page ON documents (created_at, id);
CREATE INDEX documents_collection_page ON documents (collection_id, created_at, id);
CREATE INDEX documents_unfinished ON documents (id) WHERE state IN ('pending', 'processing');
CREATE INDEX documents_metadata ON documents USING gin (metadata jsonb_path_ops);

CREATE TABLE document_contents (
    document_id uuid PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE,
    content     bytea NOT NULL
);

CREATE TABLE document_texts (
    document_id uuid PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE,
    version     integer NOT NULL,
    text        text NOT NULL
);

CREATE TABLE chunks (
    id               bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    document_id      uuid NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    collection_id    integer NOT NULL REFERENCES collections (id),
    ordinal          integer NOT NULL,
    text             text NOT NULL,
    embed_prefix     text NOT NULL DEFAULT '',
    heading_path     text[] NOT NULL DEFAULT '{}',
    char_start       integer NOT NULL,
    char_end         integer NOT NULL,
    page_start       integer,
    page_end         integer,
    line_start       integer,
    line_end         integer,
    token_count      integer NOT NULL,
    term_count       integer NOT NULL,
    terms            text[] NOT NULL DEFAULT '{}',
    term_frequencies integer[] NOT NULL DEFAULT '{}',
    UNIQUE (document_id, ordinal),
    CHECK (0 <= char_start AND char_start <= char_end),
    CHECK (cardinality(terms) = cardinality(term_frequencies))
);
CREATE INDEX chunks_collection ON chunks (collection_id);

CREATE TABLE terms (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id      integer NOT NULL REFERENCES collections (id),
    term               text COLLATE "C" NOT NULL CHECK (octet_length(term) <= 1024),
    document_frequency bigint NOT NULL CHECK (document_frequency >= 0),
    UNIQUE (collection_id, term)
);

-- No foreign keys: they would cost a look-up per posting; the triggers below are the only writers.
CREATE TABLE postings (
    term_id   bigint NOT NULL,
    chunk_id  bigint NOT NULL,
    frequency integer NOT NULL,
    length    integer NOT NULL,
    PRIMARY KEY (term_id, chunk_id) INCLUDE (frequency, length)
);

CREATE TABLE embedding_sets (
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model        text NOT NULL,
    revision     text NOT NULL,
    engine       text NOT NULL,
    precision    text NOT NULL,
    dimension    integer NOT NULL CHECK (dimension BETWEEN 1 AND 16000),
    normalized   boolean NOT NULL,
    state        text NOT NULL DEFAULT 'filling' CHECK (state IN ('filling', 'active', 'retired')),
    table_name   text NOT NULL GENERATED ALWAYS AS ('vectors_' || id::text) STORED,
    created_at   timestamptz NOT NULL DEFAULT now(),
    activated_at timestamptz,
    UNIQUE (model, revision, engine, precision, dimension, normalized)
);
CREATE UNIQUE INDEX embedding_sets_one_active ON embedding_sets (state) WHERE state = 'active';

CREATE TABLE outbox (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL
                    CHECK (kind IN ('document_indexed', 'document_deleted', 'collection_deleted')),
    collection_id   integer NOT NULL,
    collection_name text NOT NULL,
    document_id     uuid,
    version         integer,
    created_at      timestamptz NOT NULL DEFAULT now(),
    done_at         timestamptz
);
CREATE INDEX outbox_open ON outbox (id) WHERE done_at IS NULL;
"""

FUNCTIONS = """
-- Terms are looked up by scalar subqueries on purpose: they are index look-ups whatever the planner
-- believes of tables that have grown since they were last analysed; joins here were seen to scan
-- all terms of the collection once per chunk.
CREATE FUNCTION aidb_index_chunks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- The collection's row is the lock that orders all writers of its terms: it comes first.
    UPDATE collections c
       SET chunk_count = c.chunk_count + a.chunks, total_length = c.total_length + a.length
      FROM (SELECT collection_id, count(*) AS chunks, sum(term_count) AS length
              FROM added GROUP BY collection_id ORDER BY collection_id) a
     WHERE c.id = a.collection_id;
    -- Not INSERT .. ON CONFLICT: it would burn one number of the sequence for every known term.
    WITH occurring AS MATERIALIZED (
        SELECT a.collection_id, u.term, count(*) AS chunks
          FROM added a, unnest(a.terms) AS u(term) GROUP BY a.collection_id, u.term
    ), located AS MATERIALIZED (
        SELECT o.*, (SELECT t.id FROM terms t WHERE t.collection_id = o.collection_id
                        AND t.term = o.term COLLATE "C") AS id FROM occurring o
    ), known AS (
        UPDATE terms t SET document_frequency = t.document_frequency + l.chunks
          FROM located l WHERE t.id = l.id
    )
    INSERT INTO terms (collection_id, term, document_frequency)
    SELECT l.collection_id, l.term, l.chunks FROM located l WHERE l.id IS NULL;
    INSERT INTO postings (term_id, chunk_id, frequency, length)
    SELECT (SELECT t.id FROM terms t WHERE t.collection_id = a.collection_id
               AND t.term = u.term COLLATE "C"), a.id, u.frequency, a.term_count
      FROM added a, unnest(a.terms, a.term_frequencies) AS u(term, frequency)
     ORDER BY 1, 2;
    RETURN NULL;
END $$;

CREATE FUNCTION aidb_unindex_chunks() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    touched bigint[];
    fewer bigint[];
BEGIN
    UPDATE collections c
       SET chunk_count = c.chunk_count - r.chunks, total_length = c.total_length - r.length
      FROM (SELECT collection_id, count(*) AS chunks, sum(term_count) AS length
              FROM removed GROUP BY collection_id ORDER BY collection_id) r
     WHERE c.id = r.collection_id;
    WITH gone AS MATERIALIZED (
        SELECT r.id AS chunk_id, (SELECT t.id FROM terms t WHERE t.collection_id = r.collection_id
                                     AND t.term = u.term COLLATE "C") AS term_id
          FROM removed r, unnest(r.terms) AS u(term)
    ), postings_gone AS (
        DELETE FROM postings p USING gone g
         WHERE p.term_id = g.term_id AND p.chunk_id = g.chunk_id
    ), counted AS (
        SELECT g.term_id, count(*) AS chunks FROM gone g WHERE g.term_id IS NOT NULL GROUP BY 1
    )
    SELECT array_agg(c.term_id), array_agg(c.chunks) INTO touched, fewer FROM counted c;
    UPDATE terms t SET document_frequency = t.document_frequency - o.chunks
      FROM unnest(touched, fewer) AS o(id, chunks) WHERE t.id = o.id;
    DELETE FROM terms t WHERE t.id = ANY(touched) AND t.document_frequency = 0;
    RETURN NULL;
END $$;

CREATE TRIGGER chunks_indexed AFTER INSERT ON chunks
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION aidb_index_chunks();
CREATE TRIGGER chunks_unindexed AFTER DELETE ON chunks
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION aidb_unindex_chunks();

-- An update could change terms behind the postings' back; chunks are replaced, never changed.
CREATE FUNCTION aidb_refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are replaced, never updated', TG_TABLE_NAME;
END $$;
CREATE TRIGGER chunks_immutable BEFORE UPDATE OR TRUNCATE ON chunks
    FOR EACH STATEMENT EXECUTE FUNCTION aidb_refuse_update();

-- The one place where a typed vector table is made. Idempotent; returns the table's name. The
-- foreign key is deferred so that a transaction can write the vectors, which is slow, before it
-- takes the locks that writing the chunks needs.
CREATE FUNCTION aidb_create_vector_table(set_id integer) RETURNS text LANGUAGE plpgsql AS $$
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
"""

DOWN = """
DO $$
DECLARE
    vectors text;
BEGIN
    FOR vectors IN SELECT table_name FROM embedding_sets LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', vectors);
    END LOOP;
END $$;
DROP FUNCTION aidb_create_vector_table(integer);
DROP TABLE outbox, embedding_sets, postings, terms, chunks,
           document_texts, document_contents, documents, collections;
DROP FUNCTION aidb_index_chunks(), aidb_unindex_chunks(), aidb_refuse_update();
"""


def upgrade() -> None:
    run(TABLES)
    run(FUNCTIONS)


def downgrade() -> None:
    # The extension stays: it may have been there before us, and others may use it.
    run(DOWN)
