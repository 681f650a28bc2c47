-- Counts an upload that is about to be stored as its tenant's, until it expires. Returns nothing, or where the tenant has all that it may
-- {'uploads' or 'bytes', the bound, in how many ms the first of them expires}.
-- KEYS: uploads by when they expire, those of the tenant (with their bytes), counts of the tenant, its policy
-- ARGV: tenant/id, id, when it expires (ms), bytes, uploads and bytes of them that a tenant may have whose policy has no number
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return false end -- a retried call
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local wait_ms = first and math.max(first - clock_ms(), 0) or 0
local most, most_bytes = bound(KEYS[4], 'uploads', ARGV[5]), bound(KEYS[4], 'upload_bytes', ARGV[6])
if exceeds(redis.call('ZCARD', KEYS[2]) + 1, most) then return {'uploads', most, wait_ms} end
local bytes = tonumber(redis.call('HGET', KEYS[3], 'upload_bytes') or 0)
if exceeds(bytes + ARGV[4], most_bytes) then return {'bytes', most_bytes, wait_ms} end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2] .. '/' .. ARGV[4])
redis.call('HINCRBY', KEYS[3], 'upload_bytes', ARGV[4])
return false
