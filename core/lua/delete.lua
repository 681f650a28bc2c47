-- Removes every trace of a job from Redis. Returns 1, or 0 if it is not what it has to be.
-- KEYS: job, tenant index, counts, queue, intermediate list, events, RQ job, RQ executions, accepting, deadlines, expiry, outbox,
--       dead letters, started registry, deliveries of the tenant, dead letters of the tenant
-- ARGV: id, what it has to be: 'unaccepted' (it waits, and its acceptance has not ended), 'ended' (then its webhooks go too: its owner
--       wants nothing more of it), '' for anything
local status = redis.call('HGET', KEYS[1], 'status')
if ARGV[2] == 'unaccepted' and not (status == 'queued' and redis.call('ZSCORE', KEYS[9], ARGV[1])) then return 0 end
if ARGV[2] == 'ended' then
  if not status or status == 'queued' or status == 'running' then return 0 end
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 8) == 'webhook:' then
      local webhook, lane = string.sub(fields[i], 9), fields[i + 1]
      redis.call('ZREM', 'outfill:lane:' .. lane, webhook)
      refresh(KEYS[12], lane)
      for _, list in ipairs({KEYS[13], KEYS[15], KEYS[16]}) do redis.call('ZREM', list, webhook) end
      redis.call('DEL', 'outfill:webhook:' .. webhook)
    end
  end
end
if status then redis.call('HINCRBY', KEYS[3], status, -1) end
local reservation = redis.call('HGET', KEYS[1], 'reservation')
if reservation and redis.call('HGET', reservation, 'job') == ARGV[1] then redis.call('DEL', reservation) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('LREM', KEYS[4], 0, ARGV[1])
redis.call('LREM', KEYS[5], 0, ARGV[1])
local execution = redis.call('HGET', KEYS[1], 'execution')
if not (ARGV[2] == 'ended' and execution and redis.call('ZSCORE', KEYS[14], execution)) then
  redis.call('DEL', KEYS[7], KEYS[8]) -- else its worker, which has yet to let go of the message, would trip over its absence
end
redis.call('DEL', KEYS[1], KEYS[6])
for i = 9, 11 do redis.call('ZREM', KEYS[i], ARGV[1]) end
return 1
