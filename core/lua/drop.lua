#!lua flags=allow-oom
-- Forgets a job that stands in its queue though its record is gone or has ended, with RQ's message. One that waits or runs is left alone.
-- KEYS: job, queue, RQ job, RQ executions, line and turns ('' where the tenant is not known)   ARGV: id, tenant
-- Returns 1, or 0 if it was left alone.
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'queued' or status == 'running' then return 0 end
redis.call('LREM', KEYS[2], 0, ARGV[1])
redis.call('DEL', KEYS[3], KEYS[4])
if ARGV[2] ~= '' and redis.call('ZREM', KEYS[5], ARGV[1]) == 1 and redis.call('EXISTS', KEYS[5]) == 0 then
  redis.call('ZREM', KEYS[6], ARGV[2])
end
return 1
