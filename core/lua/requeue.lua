#!lua flags=allow-oom
-- Gives a job back to the front of its queue, and to its place in its tenant's line: the worker hands it back, or its lease lapsed. Returns 1, or 0 if it is not (or no
-- longer) this execution's to give, or if it was canceled meanwhile (whoever asks then finishes it instead).
-- RQ's own trace of the execution goes too: RQ trips over one that lapsed when it later cleans up the message.
-- KEYS: job, started registry, queue, intermediate list, counts, RQ job, RQ executions of the job, RQ execution,
--       counts of the tenant, its running jobs, line, turns
-- ARGV: id, lease member, lapsed_before ('' to hand back a live lease), refund (1: the attempt does not count), execution id, tenant
local score = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not score then return 0 end
if ARGV[3] ~= '' and tonumber(score) > tonumber(ARGV[3]) then return 0 end
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'running' then
  if redis.call('HGET', KEYS[1], 'execution') ~= ARGV[2] then return 0 end
  if redis.call('HGET', KEYS[1], 'cancel') then return 0 end
  redis.call('HSET', KEYS[1], 'status', 'queued', 'step', 0)
  redis.call('HDEL', KEYS[1], 'execution', 'preview')
  if ARGV[4] == '1' then redis.call('HINCRBY', KEYS[1], 'attempts', -1) end
  redis.call('HINCRBY', KEYS[5], 'running', -1)
  redis.call('HINCRBY', KEYS[5], 'queued', 1)
  count_waiting(KEYS[9], KEYS[1], 1)
elseif status ~= 'queued' then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('LREM', KEYS[4], 0, ARGV[1])
if redis.call('ZSCORE', KEYS[11], ARGV[1]) then redis.call('LREM', KEYS[3], 1, ARGV[1]) end
redis.call('LPUSH', KEYS[3], ARGV[1])
local place = redis.call('HGET', KEYS[1], 'place') or 0
redis.call('ZADD', KEYS[11], place, ARGV[1])
redis.call('ZADD', KEYS[12], 'NX', place, ARGV[6])
redis.call('SREM', KEYS[10], ARGV[1])
redis.call('HSET', KEYS[6], 'status', 'queued')
redis.call('ZREM', KEYS[7], ARGV[5])
redis.call('DEL', KEYS[8])
return 1
