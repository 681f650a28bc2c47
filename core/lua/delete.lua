#!lua flags=allow-oom
-- Removes every trace of a job from Redis. Returns 1, or 0 if it is not what it has to be.
-- KEYS: job, tenant index, counts, queue, intermediate list, events, RQ job, RQ executions, accepting, deadlines, expiry, outbox,
--       dead letters, started registry, usage of the key on the day that the job was recorded ('' for none),
--       counts of the tenant, its running jobs, line, turns, inputs and outputs by when they are to be deleted,
--       deliveries of the tenant, its dead letters, those that have ended
-- ARGV: id, what it has to be: 'unaccepted' (it waits, and its acceptance has not ended), 'ended' (then its webhooks go too: its owner
--       wants nothing more of it), '' for anything; tenant
local status = redis.call('HGET', KEYS[1], 'status')
if ARGV[2] == 'unaccepted' and not (status == 'queued' and redis.call('ZSCORE', KEYS[9], ARGV[1])) then return 0 end
if ARGV[2] == 'unaccepted' and KEYS[15] ~= '' then redis.call('HINCRBY', KEYS[15], 'jobs', -1) end
if ARGV[2] == 'ended' then
  if not status or status == 'queued' or status == 'running' then return 0 end
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 8) == 'webhook:' then
      forget(KEYS[12], {KEYS[13], KEYS[22], KEYS[23], KEYS[24]}, fields[i + 1], string.sub(fields[i], 9))
    end
  end
end
if status then redis.call('HINCRBY', KEYS[3], status, -1) end
if status == 'queued' then count_waiting(KEYS[16], KEYS[1], -1) end
local kept = kept_of(KEYS[1])
if kept then
  redis.call('ZREM', 'outfill:' .. kept.ledger .. ':' .. ARGV[3], ARGV[1])
  redis.call('HINCRBY', KEYS[16], kept.ledger .. '_bytes', -kept.size)
  redis.call('HINCRBY', KEYS[16], 'stored_bytes', 0 - (kept.inputs + kept.outputs))
end
redis.call('SREM', KEYS[17], ARGV[1])
local reservation = redis.call('HGET', KEYS[1], 'reservation')
if reservation and redis.call('HGET', reservation, 'job') == ARGV[1] then redis.call('DEL', reservation) end
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('ZREM', KEYS[18], ARGV[1]) == 1 or redis.call('HEXISTS', KEYS[1], 'place') == 0 then
  redis.call('LREM', KEYS[4], 1, ARGV[1]) -- a long list is only looked through where it holds the job
  if redis.call('EXISTS', KEYS[18]) == 0 then redis.call('ZREM', KEYS[19], ARGV[3]) end
end
redis.call('LREM', KEYS[5], 0, ARGV[1])
local execution = redis.call('HGET', KEYS[1], 'execution')
if not (ARGV[2] == 'ended' and execution and redis.call('ZSCORE', KEYS[14], execution)) then
  redis.call('DEL', KEYS[7], KEYS[8]) -- else its worker, which has yet to let go of the message, would trip over its absence
end
redis.call('DEL', KEYS[1], KEYS[6])
for _, i in ipairs({9, 10, 11, 20, 21}) do redis.call('ZREM', KEYS[i], ARGV[1]) end
return 1
