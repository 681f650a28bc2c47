-- Records a job that is being accepted. Returns 1, or 0 if the id exists (a retried call: the record is the same).
-- KEYS: job, tenant index, accepting, deadlines, counts
-- ARGV: id, spec, now_ms, deadline_ms ('' for none)
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'spec', ARGV[2], 'status', 'queued', 'attempts', 0, 'seq', 0, 'step', 0)
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
if ARGV[4] ~= '' then redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1]) end
redis.call('HINCRBY', KEYS[5], 'queued', 1)
return 1
