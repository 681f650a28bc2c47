-- Gives back ids that a worker claimed before it died without taking a lease. An id is a stray when it stood on the intermediate
-- list in the last round too. A worker that was only slow finds out when it begins the job. Returns how many were given back.
-- KEYS: queue, intermediate list, those of the last round
-- ARGV: seconds to remember a round
local ids = redis.call('LRANGE', KEYS[2], 0, -1)
local back = 0
for i = #ids, 1, -1 do
  if redis.call('SISMEMBER', KEYS[3], ids[i]) == 1 then
    redis.call('LREM', KEYS[2], 0, ids[i])
    redis.call('LREM', KEYS[1], 0, ids[i])
    redis.call('LPUSH', KEYS[1], ids[i])
    table.remove(ids, i)
    back = back + 1
  end
end
redis.call('DEL', KEYS[3])
if #ids > 0 then
  redis.call('SADD', KEYS[3], unpack(ids))
  redis.call('EXPIRE', KEYS[3], ARGV[1])
end
return back
