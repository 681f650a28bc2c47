-- The inputs, or the outputs, of a job are deleted: they count no more as stored.
-- KEYS: job, jobs by when these are to be deleted, counts of the tenant   ARGV: id, 'input_bytes' or 'output_bytes'
redis.call('ZREM', KEYS[2], ARGV[1])
local bytes = redis.call('HGET', KEYS[1], ARGV[2])
if not bytes then return end
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('HINCRBY', KEYS[3], 'stored_bytes', -bytes)
