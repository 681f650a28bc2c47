#!lua flags=allow-oom
-- Sets a claimed job aside that its worker cannot read, for one that can: it is in line again when its pause is over (bring_back.lua), which is twice as long
-- each time.
-- KEYS: job, intermediate list, jobs set aside by when their pauses are over   ARGV: id, queue, first pause (ms), longest pause (ms)
-- Returns 1, or 0 if it does not wait, or stands elsewhere by now.
if redis.call('LREM', KEYS[2], 0, ARGV[1]) == 0 then return 0 end
local status, tenant = unpack(redis.call('HMGET', KEYS[1], 'status', 'tenant'))
if tenant then redis.call('SREM', 'outfill:running:' .. tenant, ARGV[1]) end
if status ~= 'queued' then return 0 end
local times = redis.call('HINCRBY', KEYS[1], 'set_aside', 1)
local pause_ms = math.min(ARGV[3] * 2 ^ (times - 1), tonumber(ARGV[4]))
redis.call('ZADD', KEYS[3], clock_ms() + pause_ms, ARGV[2] .. '/' .. ARGV[1])
return 1
