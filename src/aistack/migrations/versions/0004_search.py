"""What searches need: the metadata fields of a collection, and what tells equal chunks.

    metadata_fields    -> collections. (collection_id, field): every metadata key that a document of
                       the collection has or had. Rows are only added, by a trigger on `documents`,
                       and go with their collection: a delete may leave a field known. No unique
                       index on purpose: two uploads that bring the same new field at once would
                       wait for each other, and a row more says the same.
    chunks.text_hash   of what was embedded (embed_prefix || text) without regard to white space and
                       case: equal for exact duplicates. Generated; nobody writes it.
    chunks.fingerprint 64-bit SimHash of the chunk's terms (`aidb.near_duplicates`); NULL where the
                       chunk is too short or older than the column.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from aistack.migrations.statements import run

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

UP = """
CREATE TABLE metadata_fields (
    collection_id integer NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
    field         text NOT NULL
);
CREATE INDEX metadata_fields_field ON metadata_fields (collection_id, field);

CREATE FUNCTION aidb_note_metadata_fields() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO metadata_fields (collection_id, field)
    SELECT NEW.collection_id, k.field FROM jsonb_object_keys(NEW.metadata) AS k(field)
     WHERE NOT EXISTS (SELECT 1 FROM metadata_fields m
                        WHERE m.collection_id = NEW.collection_id AND m.field = k.field);
    RETURN NULL;
END $$;
CREATE TRIGGER documents_metadata_fields AFTER INSERT OR UPDATE OF metadata ON documents
    FOR EACH ROW WHEN (NEW.metadata <> '{}') EXECUTE FUNCTION aidb_note_metadata_fields();
INSERT INTO metadata_fields (collection_id, field)
SELECT DISTINCT d.collection_id, k.field
  FROM documents d, jsonb_object_keys(d.metadata) AS k(field);

ALTER TABLE chunks
    ADD COLUMN text_hash bigint GENERATED ALWAYS AS (hashtextextended(
        lower(btrim(regexp_replace(embed_prefix || text, '\\s+', ' ', 'g'))), 0)) STORED,
    ADD COLUMN fingerprint bigint;
"""

DOWN = """
ALTER TABLE chunks DROP COLUMN text_hash, DROP COLUMN fingerprint;
DROP TRIGGER documents_metadata_fields ON documents;
DROP FUNCTION aidb_note_metadata_fields();
DROP TABLE metadata_fields;
"""


def upgrade() -> None:
    run(UP)


def downgrade() -> None:
    run(DOWN)
