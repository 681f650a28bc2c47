#!lua flags=allow-oom
-- Puts a job that RQ has queued in line behind its tenant's others; from here on it can be claimed. Calling it again changes nothing.
-- A queue has a line for each tenant with waiting jobs, and the tenants take turns (claim.lua). RQ's list goes on holding all of them.
-- KEYS: job, queue, line, turns   ARGV: id, tenant, name of the queue
-- Returns 1, or 0 if the job neither waits nor runs (any more).
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'running' then return 1 end
if status ~= 'queued' then return 0 end
if redis.call('HEXISTS', KEYS[1], 'place') == 1 then return 1 end
local place = redis.call('INCR', 'outfill:places')
redis.call('HSET', KEYS[1], 'place', place, 'tenant', ARGV[2], 'queue', ARGV[3])
redis.call('ZADD', KEYS[3], place, ARGV[1])
redis.call('ZADD', KEYS[4], 'NX', place, ARGV[2])
return 1
