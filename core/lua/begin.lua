-- An execution that holds a lease begins a job. Returns {verdict, attempts}:
--   begun      it is ours; attempts was raised
--   missing    there is no record
--   terminal   it ended (or was canceled) while it waited
--   lost       the lease is gone
--   duplicate  another live execution runs it
-- KEYS: job, started registry, counts, events, outbox, webhook row, counts of the tenant, its running jobs
-- ARGV: lease member, now, now_ms, event, webhook id ('' for none), webhook row, id
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'missing', 0} end
if status ~= 'queued' and status ~= 'running' then
  redis.call('SREM', KEYS[8], ARGV[7])
  return {'terminal', 0}
end
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {'lost', 0} end
local other = redis.call('HGET', KEYS[1], 'execution')
if status == 'running' and other ~= ARGV[1] and redis.call('ZSCORE', KEYS[2], other) then return {'duplicate', 0} end
if other == ARGV[1] then return {'begun', tonumber(redis.call('HGET', KEYS[1], 'attempts'))} end -- a retried call
local attempts = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSET', KEYS[1], 'status', 'running', 'execution', ARGV[1], 'step', 0, 'begun_ms', ARGV[3])
redis.call('HDEL', KEYS[1], 'preview')
redis.call('SADD', KEYS[8], ARGV[7])
redis.call('HSETNX', KEYS[1], 'started_at', ARGV[2])
if status ~= 'running' then
  redis.call('HINCRBY', KEYS[3], status, -1)
  redis.call('HINCRBY', KEYS[3], 'running', 1)
  redis.call('HINCRBY', KEYS[7], 'queued', -1)
end
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('XADD', KEYS[4], 'MAXLEN', '~', 256, '*', 'event', ARGV[4], 'seq', seq, 'at', ARGV[2])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[6], 'row', ARGV[6], 'seq', seq, 'attempts', 0)
  redis.call('ZADD', KEYS[5], ARGV[3], ARGV[5])
  redis.call('HSET', KEYS[1], 'webhook:' .. ARGV[5], KEYS[6])
end
return {'begun', attempts}
