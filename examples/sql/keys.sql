-- For SQLite and for PostgreSQL. The hash is sha256, in hexadecimal: printf swordfish | sha256sum
CREATE TABLE api_key (hash TEXT PRIMARY KEY, owner TEXT NOT NULL);
-- The sample key is "swordfish". Real keys are long and random: openssl rand -hex 32
INSERT INTO api_key VALUES ('b9f195c5cc7ef6afadbfbc42892ad47d3b24c6bc94bb510c4564a90a14e8b799', 'alice');
