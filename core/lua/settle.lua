#!lua flags=allow-oom
-- What became of an attempt. Returns 1, or 0 if the row is owed no more (delivered by another sender, or its job was deleted).
-- KEYS: outbox, lane, webhook row, deliveries of the tenant, dead letters, dead letters of the tenant, its deliveries that have ended by when, its policy
-- ARGV: id, lane, state: 'pending' (it comes again), 'delivered', 'dead', or 'gone' (nothing is kept of it), in how many ms, the attempt as
--       JSON ('' for none was made), kept_s, how many that have ended are kept of a tenant whose policy has no number
local function first_letters(ms) -- of the ULIDs of that time
  local letters, text = '0123456789ABCDEFGHJKMNPQRSTVWXYZ', ''
  for _ = 1, 10 do
    local digit = ms % 32
    text, ms = string.sub(letters, digit + 1, digit + 1) .. text, (ms - digit) / 32
  end
  return text
end

if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
local state, now_ms = ARGV[3], clock_ms()
if state == 'pending' then redis.call('ZADD', KEYS[2], now_ms + ARGV[4], ARGV[1]) else redis.call('ZREM', KEYS[2], ARGV[1]) end
refresh(KEYS[1], ARGV[2])
local kept_from = now_ms - ARGV[6] * 1000
for _, i in ipairs({4, 6}) do -- old by their ids; those that ended lately, or are still owed, have a row
  for _, old in ipairs(redis.call('ZRANGEBYLEX', KEYS[i], '-', '(evt_' .. first_letters(kept_from), 'LIMIT', 0, 50)) do
    if redis.call('EXISTS', 'outfill:webhook:' .. old) == 0 then redis.call('ZREM', KEYS[i], old) end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', kept_from / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', kept_from)
if state == 'gone' then
  redis.call('DEL', KEYS[3])
  redis.call('ZREM', KEYS[4], ARGV[1])
  return 1
end
redis.call('HINCRBY', KEYS[3], 'attempts', 1)
redis.call('HSET', KEYS[3], 'state', state)
if ARGV[5] ~= '' then
  local number = redis.call('HINCRBY', KEYS[3], 'tried', 1)
  redis.call('HSET', KEYS[3], 'attempt:' .. number, ARGV[5])
  redis.call('HDEL', KEYS[3], 'attempt:' .. (number - 32)) -- each redelivery adds some
end
if state ~= 'pending' then
  redis.call('EXPIRE', KEYS[3], ARGV[6])
  redis.call('ZADD', KEYS[7], now_ms, ARGV[1])
end
if state == 'dead' then
  redis.call('ZADD', KEYS[5], now_ms / 1000, ARGV[1])
  redis.call('ZADD', KEYS[6], 0, ARGV[1])
end
local most = bound(KEYS[8], 'deliveries', ARGV[7])
local too_many = most > 0 and redis.call('ZCARD', KEYS[7]) - most or 0
for _, oldest in ipairs(too_many > 0 and redis.call('ZRANGE', KEYS[7], 0, math.min(too_many, 50) - 1) or {}) do
  for _, list in ipairs({KEYS[4], KEYS[5], KEYS[6], KEYS[7]}) do redis.call('ZREM', list, oldest) end
  redis.call('DEL', 'outfill:webhook:' .. oldest)
end
return 1
