-- One limit, divided among many machines: the rule of site.rs, for a server.
--
-- The two files must give the same answers. All numbers are doubles in both, and are added up in
-- the same order; tests/site_script.rs compares them on random sequences. site.rs says why.
--
-- KEYS[1]  hash: rate, burst, floors, generation (the limit, which does not expire) and state
-- KEYS[2]  string: a record of fixed size for each machine
-- ARGV[1]  the request, packed; its first byte says which: r(enew), l(eave), s(et)

local LEASE, FLOOR_LEASE = 1.6e6, 60e6
local SLACK, LARGEST_STEP = LEASE / 4, LEASE / 4
local STATE = '<ddddddddI4c8'
local MACHINE, SIZE = '<c8c24I4I4dddddddd', 104

local call, pack, unpack_from = redis.call, struct.pack, struct.unpack
local min, max, floor = math.min, math.max, math.floor

local time = call('TIME')
local now = time[1] * 1e6 + time[2]

local kept = call('HMGET', KEYS[1], 'rate', 'burst', 'floors', 'generation', 'state')
local rate, burst = tonumber(kept[1] or 0), tonumber(kept[2] or 0)
local floors, generation = tonumber(kept[3] or 0), tonumber(kept[4] or 0)
local life, answer, clock, wall, learns_until, floors_until, unreported, learned, count, run =
  0, 0, 0, 0, 0, 0, 0, 0, 0, ''
if kept[5] then
  life, answer, clock, wall, learns_until, floors_until, unreported, learned, count, run =
    unpack_from(STATE, kept[5])
end

local function pool()
  return floor(rate * floors / 100)
end

local function pass_time()
  clock = clock + min(max(now - wall, 0), LARGEST_STEP)
  wall = now
end

local function learn(on)
  life, run, count, learned = max(now, life + 1), on, 0, 1
  learns_until = clock + LEASE + SLACK
  floors_until = clock + FLOOR_LEASE + SLACK
  unreported = pool()
end

local function keep_limit()
  call('HSET', KEYS[1], 'rate', rate, 'burst', burst, 'floors', floors, 'generation', generation)
end

local function keep_state()
  call('HSET', KEYS[1], 'state', pack(STATE, life, answer, clock, wall, learns_until, floors_until,
    unreported, learned, count, run))
end

local op = string.sub(ARGV[1], 1, 1)
local request = string.sub(ARGV[1], 2)

if op == 's' then
  local known, new_rate, new_burst, new_floors, on = unpack_from('<I4ddI4c8', request)
  local founds = life == 0 and known == 0
  pass_time()
  if life == 0 or on ~= run then
    learn(on)
    call('DEL', KEYS[2])
  end
  if founds then
    learned, floors_until = 0, 0
  end
  local unknown = rate == 0
  rate, burst, floors, generation = new_rate, new_burst, new_floors, max(generation, known) + 1
  if unknown and floors_until > clock then
    unreported = unreported + pool()
  end
  keep_limit()
  keep_state()
  return pack('<ddI4I4', rate, burst, floors, generation)
end

local machine, keeper, number, held, held_floor, want, weight, guaranteed, moved, knows, their_life,
  their_answer, on, after = unpack_from('<c8I4I4dddI4ddI4ddc8', request)
local introduced = after <= #request
local data = call('GET', KEYS[2]) or ''

-- Machines in the order of their records, and where this one is.
local ids, names, keepers, numbers = {}, {}, {}, {}
local charges, untils, own_floors, floor_untils = {}, {}, {}, {}
local wants, weights, guarantees, moves = {}, {}, {}, {}
local own
for i = 1, floor(#data / SIZE) do
  ids[i], names[i], keepers[i], numbers[i], charges[i], untils[i], own_floors[i], floor_untils[i],
    wants[i], weights[i], guarantees[i], moves[i] = unpack_from(MACHINE, data, (i - 1) * SIZE + 1)
  if ids[i] == machine then
    own = i
  end
end

local lost = life == 0 or on ~= run or count ~= #ids
  or (their_life == life and their_answer > answer)
  or (learned == 0 and their_life > 0 and their_life ~= life and max(held, held_floor) > 0)
if not introduced and (lost or not own or knows > generation) then
  return 'i'
end
if own and not lost and (keeper < keepers[own] or (keeper == keepers[own] and number <= numbers[own])) then
  return pack('<c1I4', 'r', keepers[own])
end

pass_time()
local rewrite = lost
if lost then
  learn(on)
  ids, own = {}, nil
end
local name = string.rep('\0', 24)
if introduced then
  local their_rate, their_burst, their_floors
  their_rate, their_burst, their_floors, name = unpack_from('<ddI4c24', request, after)
  if knows > generation or (rate == 0 and their_rate > 0) then
    local before = pool()
    rate, burst, floors, generation = their_rate, their_burst, their_floors, knows
    if floors_until > clock then
      unreported = unreported + max(pool() - before, 0)
    end
    keep_limit()
  end
end
answer = answer + 1

-- Drops the records of machines that may use nothing any more, and the own one if it leaves.
local stay = 0
for i = 1, #ids do
  if (ids[i] == machine and op ~= 'l') or (ids[i] ~= machine and (untils[i] > clock or floor_untils[i] > clock)) then
    stay = stay + 1
    if stay < i then
      ids[stay], names[stay], keepers[stay], numbers[stay], charges[stay], untils[stay], own_floors[stay],
        floor_untils[stay], wants[stay], weights[stay], guarantees[stay], moves[stay] = ids[i], names[i], keepers[i],
        numbers[i], charges[i], untils[i], own_floors[i], floor_untils[i], wants[i], weights[i], guarantees[i], moves[i]
      if ids[i] == machine then
        own = stay
      end
    end
  end
end
rewrite = rewrite or stay < #ids
local n = stay

local function record(i)
  return pack(MACHINE, ids[i], names[i], keepers[i], numbers[i], charges[i], untils[i], own_floors[i],
    floor_untils[i], wants[i], weights[i], guarantees[i], moves[i])
end

local function keep_machines()
  count = n
  if rewrite or not own then
    local records = {}
    for i = 1, n do
      records[i] = record(i)
    end
    if n > 0 then
      call('SET', KEYS[2], table.concat(records))
    else
      call('DEL', KEYS[2])
    end
  elseif own then
    call('SETRANGE', KEYS[2], (own - 1) * SIZE, record(own))
  end
  if n > 0 then
    call('PEXPIRE', KEYS[2], 2 * FLOOR_LEASE / 1000)
  end
  keep_state()
end

local function granted(share, lent, entitled)
  local words = pack('<c1dddd', 'g', share, lent, entitled, answer)
  if their_life == life and knows == generation and knows > 0 then
    return words
  end
  return words .. pack('<dddI4I4', life, rate, burst, floors, generation)
end

if op == 'l' then
  own = nil
  keep_machines()
  return granted(0, 0, 0)
end

if not own then
  if their_life ~= life then
    unreported = max(unreported - held_floor, 0)
  end
  n = n + 1
  own, rewrite = n, true
  ids[own], names[own], charges[own], own_floors[own], floor_untils[own] = machine, name, 0, 0, 0
end
keepers[own], numbers[own], untils[own] = keeper, number, clock + LEASE + SLACK
wants[own], weights[own], guarantees[own], moves[own] = want, weight, guaranteed, moved

-- What is charged to others, and what floors there are.
local lent = pool()
local idle, awake, gone_floors, others, other_floors = 0, 0, 0, 0, 0
for i = 1, n do
  local part = floor_untils[i] > clock and own_floors[i] or 0
  local live = untils[i] > clock
  if not live then
    gone_floors = gone_floors + part
  elseif wants[i] > 0 then
    awake = awake + 1
  else
    idle = idle + 1
  end
  if i ~= own then
    others = others + (live and max(charges[i], part) or part)
    other_floors = other_floors + part
  end
end
local unheard = floors_until > clock and unreported or 0
local left = max(lent - gone_floors - unheard, 0)
local idle_floor = floor(min(left / 4, rate / 32) / max(idle + awake, 1))
local awake_floor = max(floor((left - idle * idle_floor) / max(awake, 1)), idle_floor)

-- What each may have, and the rate divided among them.
local to_divide = max(rate - unheard, 0)
local bases, parts, leasts, mosts, wished, filled, open = {}, {}, {}, {}, {}, {}, {}
local guaranteed_to_all = 0
for i = 1, n do
  local live = untils[i] > clock
  local wanted = live and min(wants[i], rate) or 0
  bases[i] = min(wanted, guarantees[i])
  parts[i] = wanted > 0 and max(weights[i], 1) or 0
  leasts[i] = live and min(max(wants[i], idle_floor), awake_floor)
    or (floor_untils[i] > clock and own_floors[i] or 0)
  mosts[i] = max(wanted, leasts[i])
  open[i] = true
  guaranteed_to_all = guaranteed_to_all + bases[i]
end
local scale = guaranteed_to_all > to_divide and to_divide / guaranteed_to_all or 1
while true do
  local rest, all_parts = to_divide, 0
  for i = 1, n do
    if open[i] then
      rest = rest - bases[i] * scale
      all_parts = all_parts + parts[i]
    else
      rest = rest - filled[i]
    end
  end
  local excess, any = 0, false
  for i = 1, n do
    if open[i] then
      any = true
      wished[i] = bases[i] * scale + (all_parts > 0 and rest * parts[i] / all_parts or 0)
      filled[i] = max(min(wished[i], mosts[i]), leasts[i])
      excess = excess + (filled[i] - wished[i])
    end
  end
  if not any then
    break
  end
  for i = 1, n do
    local above = filled[i] - wished[i]
    if excess == 0 or (excess > 0 and above > 0) or (excess < 0 and above < 0) then
      open[i] = false
    end
  end
end
local entitled = floor(filled[own])

local free = max(rate - others - unheard, 0)
local new_floor = min(min(min(max(wants[own], idle_floor), awake_floor), max(lent - other_floors - unheard, 0)), free)
local share = min(entitled, free)
if learns_until > clock then
  new_floor = min(new_floor, held_floor)
  share = min(share, held)
end
share = max(share, new_floor)

charges[own] = max(share, held)
own_floors[own] = max(new_floor, held_floor)
floor_untils[own] = clock + FLOOR_LEASE + SLACK
keep_machines()
return granted(share, new_floor, entitled)
