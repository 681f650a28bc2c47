-- Owes a test event to one endpoint, unless too many wait for it already; of those of the tenant that have ended the newest are kept.
-- KEYS: outbox, deliveries of the tenant, webhook row, its endpoints, its policy, its test events by when they were asked for, dead letters, those of the
--       tenant, its deliveries that have ended
-- ARGV: id, lane, the event as JSON, endpoint, test events that may wait for it where the policy has no number, how many that have ended are kept
-- Returns {how many wait, in how many ms the first of them is tried again} where they are too many; nothing where it is owed.
if redis.call('EXISTS', KEYS[3]) == 1 then return false end -- a retried call
local now_ms, waiting, first, ended = clock_ms(), 0, math.huge, {}
local lists = {KEYS[2], KEYS[6], KEYS[7], KEYS[8], KEYS[9]}
for _, id in ipairs(redis.call('ZRANGE', KEYS[6], 0, -1)) do
  local lane, endpoint = unpack(redis.call('HMGET', 'outfill:webhook:' .. id, 'lane', 'endpoint'))
  local due = lane and redis.call('ZSCORE', 'outfill:lane:' .. lane, id)
  if not lane then
    redis.call('ZREM', KEYS[6], id)
  elseif redis.call('HEXISTS', KEYS[4], endpoint) == 0 then -- else endpoints that come and go would leave what nobody counts
    forget(KEYS[1], lists, lane, id)
  elseif not due then
    table.insert(ended, {lane, id})
  elseif endpoint == ARGV[4] then
    waiting, first = waiting + 1, math.min(first, tonumber(due))
  end
end
if exceeds(waiting + 1, bound(KEYS[5], 'pings', ARGV[5])) then return {waiting, math.max(first - now_ms, 0)} end
for i = 1, #ended - ARGV[6] do forget(KEYS[1], lists, unpack(ended[i])) end
owe(KEYS[1], KEYS[2], ARGV[2], ARGV[1], ARGV[3], 0, 'endpoint', ARGV[4])
redis.call('ZADD', KEYS[6], now_ms, ARGV[1])
return false
