-- How many jobs would be claimed from a queue before one that waits in it, as the tenants take turns now. Nothing if it does not wait.
-- KEYS: line, turns   ARGV: id ('': the tenant's next job, which is not there yet), tenant, the beginning of the names of the queue's lines
local rank
if ARGV[1] == '' then rank = redis.call('ZCARD', KEYS[1]) else rank = redis.call('ZRANK', KEYS[1], ARGV[1]) end
if not rank then return false end
local ahead, before = rank, true
for _, tenant in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if tenant == ARGV[2] then
    before = false
  else
    ahead = ahead + math.min(redis.call('ZCARD', ARGV[3] .. tenant), before and rank + 1 or rank)
  end
end
return ahead
