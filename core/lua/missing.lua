-- How many jobs are counted as waiting and stand nowhere. A job that is being accepted or begun may stand in two places, or none, for a moment.
-- KEYS: counts, accepting, jobs set aside   ARGV: names of the queues
local standing = redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3])
for _, queue in ipairs(ARGV) do
  standing = standing + redis.call('LLEN', 'rq:queue:' .. queue .. ':intermediate')
  for _, tenant in ipairs(redis.call('ZRANGE', 'outfill:turns:' .. queue, 0, -1)) do
    standing = standing + redis.call('ZCARD', 'outfill:line:' .. queue .. ':' .. tenant)
  end
end
return tonumber(redis.call('HGET', KEYS[1], 'queued') or 0) - standing
