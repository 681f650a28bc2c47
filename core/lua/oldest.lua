-- The oldest job of a queue that a worker may take: a tenant of which workers hold as many jobs as they may waits for itself.
-- KEYS: turns   ARGV: the beginning of its lines' names, jobs of a tenant that may be held (0: any number) where it has no number of its own
-- Returns its id, or false.
local oldest
for _, tenant in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local most = tonumber(redis.call('HGET', 'outfill:tenant:' .. tenant, 'running_jobs') or ARGV[2])
  if most == 0 or redis.call('SCARD', 'outfill:running:' .. tenant) < most then
    local head = redis.call('ZRANGE', ARGV[1] .. tenant, 0, 0)[1]
    if head and (not oldest or head < oldest) then oldest = head end
  end
end
return oldest
