#!lua flags=allow-oom
-- Lets one request in, or says why not: looks its key up, takes one from the key's bucket of requests, and counts it, in one step, so that
-- a key that was revoked a moment ago opens nothing.
-- The bucket holds as many requests as may be made in a minute and refills evenly; it is kept as the time at which it will be full (GCRA).
-- KEYS: key record, last uses   ARGV: key id ('' : read the record), requests a minute (0: any number; where the record has no number of its own),
--       day, seconds to keep a day
-- Returns {verdict, id, tenant, scopes, limit, requests left, ms until the bucket is full, ms until the next request may come, name}
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local id, limit = ARGV[1], tonumber(ARGV[2])
local tenant, scopes, name = '', '', ''
if id == '' then
  local found = redis.call('HMGET', KEYS[1], 'id', 'tenant', 'scopes', 'name', 'requests_per_minute', 'expires_ms', 'revoked_ms')
  if not found[1] then return {'unknown', '', '', '', 0, 0, 0, 0, ''} end
  id, tenant, scopes, name = found[1], found[2], found[3], found[4]
  if found[5] then limit = tonumber(found[5]) end
  if found[7] then return {'revoked', id, tenant, scopes, 0, 0, 0, 0, name} end
  if found[6] and now >= tonumber(found[6]) * 1000 then return {'expired', id, tenant, scopes, 0, 0, 0, 0, name} end
end
redis.call('HSET', KEYS[2], id, math.floor(now / 1000))
local left, full_ms = 0, 0
if limit > 0 then
  local bucket, interval = 'outfill:rate:' .. id, 60000000 / limit
  local full = math.max(tonumber(redis.call('GET', bucket) or 0), now) + interval
  if full - now > 60000001 then -- a microsecond of rounding
    local wait_ms = math.ceil((full - now - 60000000) / 1000)
    return {'limited', id, tenant, scopes, limit, 0, math.ceil((full - interval - now) / 1000), wait_ms, name}
  end
  redis.call('SET', bucket, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
  left, full_ms = math.floor((60000000 - (full - now)) / interval + 0.001), math.ceil((full - now) / 1000)
end
local usage = 'outfill:usage:' .. id .. ':' .. ARGV[3]
if redis.call('HINCRBY', usage, 'requests', 1) == 1 then redis.call('EXPIRE', usage, ARGV[4]) end
return {'admitted', id, tenant, scopes, limit, left, full_ms, 0, name}
