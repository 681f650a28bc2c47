#!lua flags=allow-oom
-- The only way into a terminal state. Sets state, result, event and webhook rows in one step, or nothing.
-- Returns 1 if this call ended the job, 2 if an earlier call with the same lease did, 0 if it had ended otherwise or the state was
-- another, -1 if the lease is lost, 3 if it was to succeed and its owner has asked to cancel (end it as canceled instead).
-- KEYS: job, started registry, expiry, deadlines, counts, queue, intermediate list, RQ job, RQ executions, durations of the model,
--       usage of the key today ('' for none), counts of the tenant, its running jobs, line, turns, its policy, inputs and outputs by when they
--       are to be deleted, then what tell.lua takes: events, outbox, endpoints, deliveries
-- ARGV: id, from, status, how long to keep the record (ms), lease member ('' for none), lapsed_before ('' where the lease must be alive),
--       images, pixels, seconds to keep a day of usage, tenant, how long to keep the inputs, and the outputs ('': as long as the record), the ledger
--       that it is kept in, its bounds (jobs, bytes) and that of stored bytes where the policy has none, bytes of its inputs, and of its outputs,
--       then the seven that tell.lua takes: event, now, ...; field, value, ...
local status = redis.call('HGET', KEYS[1], 'status')
local lease, lapsed_before = ARGV[5], ARGV[6]
if not status then return 0 end
if status ~= ARGV[2] then
  if lease ~= '' and redis.call('HGET', KEYS[1], 'committed_by') == lease then return 2 end
  return 0
end
if lease ~= '' then
  local score = redis.call('ZSCORE', KEYS[2], lease)
  if not score or redis.call('HGET', KEYS[1], 'execution') ~= lease then return -1 end
  if lapsed_before ~= '' and tonumber(score) > tonumber(lapsed_before) then return -1 end
end
if ARGV[3] == 'succeeded' and redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then return 3 end
redis.call('HSET', KEYS[1], 'status', ARGV[3], 'finished_at', ARGV[20])
redis.call('HDEL', KEYS[1], 'preview')
for i = 26, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
if lease ~= '' and lapsed_before == '' then
  redis.call('HSET', KEYS[1], 'committed_by', lease) -- RQ's own bookkeeping is the worker's next step
else
  if lease ~= '' then redis.call('ZREM', KEYS[2], lease) end
  if redis.call('ZREM', KEYS[14], ARGV[1]) == 1 or redis.call('HEXISTS', KEYS[1], 'place') == 0 then
    redis.call('LREM', KEYS[6], 1, ARGV[1]) -- a long list is only looked through where it holds the job
    if redis.call('EXISTS', KEYS[14]) == 0 then redis.call('ZREM', KEYS[15], ARGV[10]) end
  end
  redis.call('LREM', KEYS[7], 0, ARGV[1])
  redis.call('DEL', KEYS[8], KEYS[9])
  redis.call('ZADD', 'outfill:unarchived', 0, ARGV[1]) -- a worker archives what it ends before it says so
end
local now_ms, begun_ms = clock_ms(), redis.call('HGET', KEYS[1], 'begun_ms')
if ARGV[3] == 'succeeded' and begun_ms then
  redis.call('LPUSH', KEYS[10], now_ms - begun_ms)
  redis.call('LTRIM', KEYS[10], 0, 31)
  redis.call('EXPIRE', KEYS[10], 604800)
end
if KEYS[11] ~= '' and tonumber(ARGV[7]) > 0 then
  redis.call('HINCRBY', KEYS[11], 'images', ARGV[7])
  redis.call('HINCRBY', KEYS[11], 'pixels', ARGV[8])
  redis.call('EXPIRE', KEYS[11], ARGV[9])
end
redis.call('HINCRBY', KEYS[5], status, -1)
redis.call('HINCRBY', KEYS[5], ARGV[3], 1)
redis.call('ZREM', KEYS[4], ARGV[1])
if status == 'queued' then count_waiting(KEYS[12], KEYS[1], -1) end
redis.call('SREM', KEYS[13], ARGV[1])
local policy = redis.call('HMGET', KEYS[16], 'records_s', 'inputs_s', 'outputs_s')
local keep_ms = policy[1] and policy[1] * 1000 or tonumber(ARGV[4])
redis.call('ZADD', KEYS[3], now_ms + keep_ms, ARGV[1])
for i = 2, 3 do -- what is to go before the record
  local part_ms = policy[i] and policy[i] * 1000 or tonumber(ARGV[9 + i])
  if part_ms and part_ms < keep_ms then redis.call('ZADD', KEYS[15 + i], now_ms + part_ms, ARGV[1]) end
end
tell({KEYS[1], unpack(KEYS, 19, 22)}, {unpack(ARGV, 19, 25)})
keep(KEYS[3], KEYS[16], KEYS[12], ARGV[10], ARGV[1], KEYS[1], KEYS[19], ARGV[13], {unpack(ARGV, 14, 16)}, ARGV[17], ARGV[18])
return 1
