#!lua flags=allow-oom
-- A worker says which models it serves; also where nothing new is taken, as it goes on with what it holds.
-- KEYS: cards, workers, what it serves   ARGV: worker, seconds that this holds, names of the models as JSON; model, card, ...
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[3], 'EX', ARGV[2])
