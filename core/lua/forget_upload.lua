#!lua flags=allow-oom
-- Counts an upload no more: its bytes are gone.
-- KEYS: uploads by when they expire, those of the tenant, counts of the tenant   ARGV: tenant/id, id
local due = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not due then return end
redis.call('ZREM', KEYS[1], ARGV[1])
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], due, due)) do
  local id, bytes = string.match(entry, '^(.*)/(%d+)$')
  if id == ARGV[2] then
    redis.call('ZREM', KEYS[2], entry)
    redis.call('HINCRBY', KEYS[3], 'upload_bytes', 0 - bytes)
  end
end
