-- Pods and containers: one JSON record each, written by `pods`, read back at start.
CREATE TABLE sandboxes (
    id     TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;
CREATE TABLE containers (
    id         TEXT PRIMARY KEY,
    sandbox_id TEXT NOT NULL,
    record     TEXT NOT NULL
) STRICT;
CREATE INDEX containers_by_sandbox ON containers (sandbox_id);

-- Images: a layer without a row is garbage on disk, a row implies the layer is on disk and synced.
CREATE TABLE layers (
    diff_id TEXT PRIMARY KEY,
    record  TEXT NOT NULL
) STRICT;
CREATE TABLE images (
    id     TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;

-- Single values: the boot id, the chosen subnet, …
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
