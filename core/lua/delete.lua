-- Removes every trace of a job from Redis. Returns 1, or 0 if its status is not the one that was asked for.
-- KEYS: job, tenant index, counts, queue, intermediate list, events, RQ job, RQ executions, accepting, deadlines, expiry
-- ARGV: id, required status ('' for any)
local status = redis.call('HGET', KEYS[1], 'status')
if ARGV[2] ~= '' and status ~= ARGV[2] then return 0 end
if status then redis.call('HINCRBY', KEYS[3], status, -1) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('LREM', KEYS[4], 0, ARGV[1])
redis.call('LREM', KEYS[5], 0, ARGV[1])
redis.call('DEL', KEYS[1], KEYS[6], KEYS[7], KEYS[8])
for i = 9, 11 do redis.call('ZREM', KEYS[i], ARGV[1]) end
return 1
