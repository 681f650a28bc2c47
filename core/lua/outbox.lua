-- Functions of the scripts that put webhooks into the outbox and take them out; they stand before each, after clock.lua
-- (core/events.py). The outbox holds
-- lanes by when their first row is due, a lane the rows of one receiver. Which lanes and rows a script touches it reads from Redis, so that they
-- cannot be among its KEYS.
local function refresh(outbox, lane)
  local first = redis.call('ZRANGE', 'outfill:lane:' .. lane, 0, 0, 'WITHSCORES')
  if first[1] then redis.call('ZADD', outbox, first[2], lane) else redis.call('ZREM', outbox, lane) end
end

local function forget(outbox, lists, lane, id)
  redis.call('ZREM', 'outfill:lane:' .. lane, id)
  refresh(outbox, lane)
  for _, list in ipairs(lists) do redis.call('ZREM', list, id) end
  redis.call('DEL', 'outfill:webhook:' .. id)
end

local function owe(outbox, index, lane, id, event, seq, field, target)
  local now_ms = clock_ms()
  redis.call('HSET', 'outfill:webhook:' .. id, 'event', event, 'lane', lane, field, target, 'seq', seq, 'attempts', 0, 'tried', 0, 'state', 'pending')
  redis.call('ZADD', 'outfill:lane:' .. lane, now_ms, id)
  redis.call('ZADD', outbox, 'LT', now_ms, lane)
  redis.call('ZADD', index, 0, id)
end
