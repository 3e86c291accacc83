"""What ingestion needs: how far a document is, and answers that are given again.

    documents.progress  share of the newest version's chunks that are embedded: 0 at the beginning
                        of each try, 1 when the version is searchable.
    idempotency_keys    the answer that a POST /v1/documents with an Idempotency-Key got, by API
                        key. Written in the transaction of what it answers; a row that another can
                        see is therefore whole. Kept for a day (aidb.upkeep).
    documents_failed    finds the documents that can be tried again.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from aistack.migrations.statements import run

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None

UP = """
ALTER TABLE documents
    ADD COLUMN progress real NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1);
UPDATE documents SET progress = 1 WHERE state = 'ready';

CREATE INDEX documents_failed ON documents (id) WHERE state = 'failed';

CREATE TABLE idempotency_keys (
    key_id         text NOT NULL,
    key            text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    request_sha256 bytea NOT NULL CHECK (octet_length(request_sha256) = 32),
    status         smallint,
    answer         bytea,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key_id, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);
"""

DOWN = """
DROP TABLE idempotency_keys;
DROP INDEX documents_failed;
ALTER TABLE documents DROP COLUMN progress;
"""


def upgrade() -> None:
    run(UP)


def downgrade() -> None:
    run(DOWN)
