-- The only way into a terminal state. Sets state, result, event and webhook row in one step, or nothing.
-- Returns 1 if this call ended the job, 2 if an earlier call with the same lease did, 0 if it had ended otherwise or the state was
-- another, -1 if the lease is lost, 3 if it was to succeed and its owner has asked to cancel (end it as canceled instead).
-- KEYS: job, started registry, events, outbox, webhook row, expiry, deadlines, counts, queue, intermediate list, RQ job, RQ executions,
--       durations of the model, usage of the key today ('' for none), counts of the tenant, its running jobs, line, turns,
--       its policy, inputs and outputs by when they are to be deleted
-- ARGV: id, from, status, now, now_ms, how long to keep the record (ms), event, webhook id ('' for none), webhook row,
--       lease member ('' for none), lapsed_before ('' where the lease must be alive), images, pixels, seconds to keep a day of usage,
--       tenant, how long to keep the inputs, and the outputs ('': as long as the record), field, value, ...
local status = redis.call('HGET', KEYS[1], 'status')
local lease, lapsed_before = ARGV[10], ARGV[11]
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
redis.call('HSET', KEYS[1], 'status', ARGV[3], 'finished_at', ARGV[4])
redis.call('HDEL', KEYS[1], 'preview')
for i = 18, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
if lease ~= '' and lapsed_before == '' then
  redis.call('HSET', KEYS[1], 'committed_by', lease) -- RQ's own bookkeeping is the worker's next step
else
  if lease ~= '' then redis.call('ZREM', KEYS[2], lease) end
  if redis.call('ZREM', KEYS[17], ARGV[1]) == 1 or redis.call('HEXISTS', KEYS[1], 'place') == 0 then
    redis.call('LREM', KEYS[9], 1, ARGV[1]) -- a long list is only looked through where it holds the job
    if redis.call('EXISTS', KEYS[17]) == 0 then redis.call('ZREM', KEYS[18], ARGV[15]) end
  end
  redis.call('LREM', KEYS[10], 0, ARGV[1])
  redis.call('DEL', KEYS[11], KEYS[12])
end
local begun_ms = redis.call('HGET', KEYS[1], 'begun_ms')
if ARGV[3] == 'succeeded' and begun_ms then
  redis.call('LPUSH', KEYS[13], ARGV[5] - begun_ms)
  redis.call('LTRIM', KEYS[13], 0, 31)
  redis.call('EXPIRE', KEYS[13], 604800)
end
if KEYS[14] ~= '' and tonumber(ARGV[12]) > 0 then
  redis.call('HINCRBY', KEYS[14], 'images', ARGV[12])
  redis.call('HINCRBY', KEYS[14], 'pixels', ARGV[13])
  redis.call('EXPIRE', KEYS[14], ARGV[14])
end
redis.call('HINCRBY', KEYS[8], status, -1)
if status == 'queued' then redis.call('HINCRBY', KEYS[15], 'queued', -1) end
redis.call('SREM', KEYS[16], ARGV[1])
redis.call('HINCRBY', KEYS[8], ARGV[3], 1)
redis.call('ZREM', KEYS[7], ARGV[1])
local policy = redis.call('HMGET', KEYS[19], 'records_s', 'inputs_s', 'outputs_s')
local keep_ms = policy[1] and policy[1] * 1000 or tonumber(ARGV[6])
redis.call('ZADD', KEYS[6], ARGV[5] + keep_ms, ARGV[1])
for i = 2, 3 do -- what is to go before the record
  local part_ms = policy[i] and policy[i] * 1000 or tonumber(ARGV[14 + i])
  if part_ms and part_ms < keep_ms then redis.call('ZADD', KEYS[18 + i], ARGV[5] + part_ms, ARGV[1]) end
end
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 256, '*', 'event', ARGV[7], 'seq', seq, 'at', ARGV[4])
if ARGV[8] ~= '' then
  redis.call('HSET', KEYS[5], 'row', ARGV[9], 'seq', seq, 'attempts', 0)
  redis.call('ZADD', KEYS[4], ARGV[5], ARGV[8])
  redis.call('HSET', KEYS[1], 'webhook:' .. ARGV[8], KEYS[5])
end
return 1
