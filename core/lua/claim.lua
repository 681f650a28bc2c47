-- Takes up to n waiting jobs for a worker and puts each on its queue's intermediate list, in one step.
-- Order: the priorities in turn; within one priority the model whose head is oldest. One claim in four goes to the oldest head that
-- has waited too long, whatever its priority, so that nothing starves and an old backlog does not undo the priorities. Job ids are ULIDs, so that older ids are smaller and their first ten letters are their time.
-- KEYS: for each priority in turn, the queue of each model:  q[p1,m1], q[p1,m2], ..., q[p2,m1], ...
-- ARGV: n, models, overdue (ids below this have waited too long)
-- Returns {queue key, id, queue key, id, ...}
local n, models, overdue = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local taken = {}
while #taken < 2 * n do
  local best, best_id
  local overdue_turn = redis.call('INCR', 'outfill:claims') % 4 == 0
  for i = 1, overdue_turn and #KEYS or 0 do
    local head = redis.call('LINDEX', KEYS[i], 0)
    if head and head < overdue and (not best_id or head < best_id) then best, best_id = KEYS[i], head end
  end
  local first = 1
  while not best and first <= #KEYS do
    for i = first, first + models - 1 do
      local head = redis.call('LINDEX', KEYS[i], 0)
      if head and (not best_id or head < best_id) then best, best_id = KEYS[i], head end
    end
    first = first + models
  end
  if not best then break end
  redis.call('LPOP', best)
  redis.call('RPUSH', best .. ':intermediate', best_id)
  table.insert(taken, best)
  table.insert(taken, best_id)
end
return taken
