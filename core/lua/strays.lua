#!lua flags=allow-oom
-- Gives back ids that a worker claimed before it died without taking a lease. An id is a stray when it stood on the intermediate
-- list in the last round too. A worker that was only slow finds out when it begins the job. Returns how many were given back.
-- KEYS: queue, intermediate list, those of the last round, turns
-- ARGV: seconds to remember a round, the beginning of the names of the queue's lines
local ids = redis.call('LRANGE', KEYS[2], 0, -1)
local back = 0
for i = #ids, 1, -1 do
  if not string.match(ids[i], '^job_%w+$') or #ids[i] ~= 30 then
    table.remove(ids, i) -- another application's, whose queue has a name like ours
  elseif redis.call('SISMEMBER', KEYS[3], ids[i]) == 1 then
    local found = redis.call('HMGET', 'outfill:job:' .. ids[i], 'tenant', 'place', 'status')
    redis.call('LREM', KEYS[2], 0, ids[i])
    redis.call('LREM', KEYS[1], 0, ids[i])
    if found[1] and found[3] ~= 'running' then redis.call('SREM', 'outfill:running:' .. found[1], ids[i]) end
    if found[3] == 'queued' and found[2] then -- else it has ended or is gone, and there is nothing to claim
      redis.call('LPUSH', KEYS[1], ids[i])
      redis.call('ZADD', ARGV[2] .. found[1], found[2], ids[i])
      redis.call('ZADD', KEYS[4], 'NX', found[2], found[1])
    end
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
