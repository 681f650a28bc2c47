#!lua flags=allow-oom
-- Writes something, also where nothing new is taken: what was deleted is to be on disk, too.
-- KEYS: anything   ARGV: a value
redis.call('SET', KEYS[1], ARGV[1])
