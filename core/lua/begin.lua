#!lua flags=allow-oom
-- An execution that holds a lease begins a job. Returns {verdict, attempts}:
--   begun      it is ours; attempts was raised
--   missing    there is no record
--   terminal   it ended (or was canceled) while it waited
--   lost       the lease is gone
--   duplicate  another live execution runs it
-- KEYS: job, started registry, counts, counts of the tenant, its running jobs, then what tell.lua takes: events, outbox, endpoints, deliveries
-- ARGV: lease member, id, then what tell.lua takes: event, now, ...
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'missing', 0} end
if status ~= 'queued' and status ~= 'running' then
  redis.call('SREM', KEYS[5], ARGV[2])
  return {'terminal', 0}
end
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {'lost', 0} end
local other = redis.call('HGET', KEYS[1], 'execution')
if status == 'running' and other ~= ARGV[1] and redis.call('ZSCORE', KEYS[2], other) then return {'duplicate', 0} end
if other == ARGV[1] then return {'begun', tonumber(redis.call('HGET', KEYS[1], 'attempts'))} end -- a retried call
local attempts = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSET', KEYS[1], 'status', 'running', 'execution', ARGV[1], 'step', 0, 'begun_ms', clock_ms())
redis.call('HDEL', KEYS[1], 'preview')
redis.call('SADD', KEYS[5], ARGV[2])
redis.call('HSETNX', KEYS[1], 'started_at', ARGV[4])
if status ~= 'running' then
  redis.call('HINCRBY', KEYS[3], status, -1)
  redis.call('HINCRBY', KEYS[3], 'running', 1)
  count_waiting(KEYS[4], KEYS[1], -1)
end
tell({KEYS[1], unpack(KEYS, 6)}, {unpack(ARGV, 3)})
return {'begun', attempts}
