#!lua flags=allow-oom
-- Puts a job back into its line that waits by its record and stands nowhere. Returns 1, or 0 if it does not wait or stands somewhere.
-- KEYS: job, accepting, jobs set aside   ARGV: id
local status, tenant, place, queue, spec = unpack(redis.call('HMGET', KEYS[1], 'status', 'tenant', 'place', 'queue', 'spec'))
if status ~= 'queued' or redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
if not queue or not tenant then -- a release that did not write them, and whose specs we know
  local known, read = pcall(cjson.decode, spec)
  if not known or type(read.model) ~= 'string' or type(read.request) ~= 'table' then return 0 end
  queue, tenant = read.model .. '.' .. (read.request.priority or 'standard'), read.tenant
end
if redis.call('ZSCORE', KEYS[3], queue .. '/' .. ARGV[1]) then return 0 end
for _, id in ipairs(redis.call('LRANGE', 'rq:queue:' .. queue .. ':intermediate', 0, -1)) do
  if id == ARGV[1] then return 0 end
end
for _, member in ipairs(redis.call('ZRANGE', 'rq:wip:' .. queue, 0, -1)) do -- leased, and about to be begun
  if string.match(member, '^[^:]*') == ARGV[1] then return 0 end
end
redis.call('HSET', KEYS[1], 'tenant', tenant, 'queue', queue, 'place', place or redis.call('INCR', 'outfill:places'))
return line_up_again(queue, ARGV[1])
