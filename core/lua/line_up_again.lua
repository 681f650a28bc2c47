-- A function of the scripts that put a job back into its queue which stands nowhere; it stands before each. It knows of the job what its hash says, so that
-- a record of any release can be put back.
local function line_up_again(queue, id)
  local status, tenant, place = unpack(redis.call('HMGET', 'outfill:job:' .. id, 'status', 'tenant', 'place'))
  if status ~= 'queued' or not tenant or not place then return 0 end
  local line = 'outfill:line:' .. queue .. ':' .. tenant
  if redis.call('ZSCORE', line, id) then return 0 end
  redis.call('LREM', 'rq:queue:' .. queue, 0, id)
  redis.call('LPUSH', 'rq:queue:' .. queue, id)
  redis.call('ZADD', line, place, id)
  redis.call('ZADD', 'outfill:turns:' .. queue, 'NX', place, tenant)
  return 1
end
