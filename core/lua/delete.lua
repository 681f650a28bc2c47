-- Removes every trace of a job from Redis. Returns 1, or 0 if it is not what it has to be.
-- KEYS: job, tenant index, counts, queue, intermediate list, events, RQ job, RQ executions, accepting, deadlines, expiry
-- ARGV: id, what it has to be: 'unaccepted' (it waits, and its acceptance has not ended), '' for anything
local status = redis.call('HGET', KEYS[1], 'status')
if ARGV[2] == 'unaccepted' and not (status == 'queued' and redis.call('ZSCORE', KEYS[9], ARGV[1])) then return 0 end
if status then redis.call('HINCRBY', KEYS[3], status, -1) end
local reservation = redis.call('HGET', KEYS[1], 'reservation')
if reservation and redis.call('HGET', reservation, 'job') == ARGV[1] then redis.call('DEL', reservation) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('LREM', KEYS[4], 0, ARGV[1])
redis.call('LREM', KEYS[5], 0, ARGV[1])
redis.call('DEL', KEYS[1], KEYS[6], KEYS[7], KEYS[8])
for i = 9, 11 do redis.call('ZREM', KEYS[i], ARGV[1]) end
return 1
