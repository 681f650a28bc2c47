#!lua flags=allow-oom
-- The inputs, or the outputs, of a job are deleted: they count no more as stored.
-- KEYS: job, jobs by when these are to be deleted, counts of the tenant   ARGV: id, 'inputs' or 'outputs'
redis.call('ZREM', KEYS[2], ARGV[1])
local kept = kept_of(KEYS[1])
if not kept then return end
redis.call('HINCRBY', KEYS[3], 'stored_bytes', 0 - kept[ARGV[2]])
kept[ARGV[2]] = 0
write_kept(KEYS[1], kept)
