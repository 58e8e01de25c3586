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
  local founds = rate == 0 and known == 0
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
local whole = #data == count * SIZE

-- Where the record of this machine begins, counted from 0.
local place = string.find(data, machine, 1, true)
while place and (place - 1) % SIZE ~= 0 do
  place = string.find(data, machine, place + 1, true)
end
place = place and place - 1

local lost = life == 0 or on ~= run or not whole
  or (their_life == life and their_answer > answer)
  or (learned == 0 and their_life > 0 and their_life ~= life and max(held, held_floor) > 0)
if not introduced and (lost or not place or knows > generation) then
  return 'i'
end
if place and not lost then
  local last_keeper, last_number = unpack_from('<I4I4', data, place + 33)
  if keeper < last_keeper or (keeper == last_keeper and number <= last_number) then
    return pack('<c1I4', 'r', last_keeper)
  end
end

pass_time()
if lost then
  learn(on)
  data, place = '', nil
end
local name = place and string.sub(data, place + 9, place + 32) or string.rep('\0', 24)
if introduced then
  local their_rate, their_burst, their_floors, their_name = unpack_from('<ddI4c24', request, after)
  name = place and name or their_name
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

-- The machines that may be using something, in the order of their records. For those that have not
-- asked within their lease, wants is below 0.
local n, own = 0, nil
local wants, weights, guarantees, own_floors, kept_at = {}, {}, {}, {}, {}
local lent = pool()
local idle, awake, gone_floors, others, other_floors = 0, 0, 0, 0, 0
for at = 0, #data - SIZE, SIZE do
  if at ~= place then
    local charge, till, lent_floor, floor_till, wanted, weighs, sure = unpack_from('<ddddddd', data, at + 41)
    if till > clock or floor_till > clock then
      n = n + 1
      local part = floor_till > clock and lent_floor or 0
      if till <= clock then
        gone_floors = gone_floors + part
        others = others + part
        wanted = -1
      else
        others = others + max(charge, part)
        if wanted > 0 then
          awake = awake + 1
        else
          idle = idle + 1
        end
      end
      other_floors = other_floors + part
      wants[n], weights[n], guarantees[n], own_floors[n], kept_at[n] = wanted, weighs, sure, part, at
    end
  elseif op ~= 'l' then
    n = n + 1
    own = n
    wants[n], weights[n], guarantees[n], own_floors[n], kept_at[n] = want, weight, guaranteed, 0, at
  end
end
-- Records were dropped, or are new.
local rewrite = lost or n * SIZE ~= #data

local function keep_machines(record)
  if rewrite then
    local records = {}
    for i = 1, n do
      records[i] = i == own and record or string.sub(data, kept_at[i] + 1, kept_at[i] + SIZE)
    end
    if n > 0 then
      call('SET', KEYS[2], table.concat(records))
    else
      call('DEL', KEYS[2])
    end
  elseif record then
    call('SETRANGE', KEYS[2], place, record)
  end
  if n > 0 and (rewrite or answer % 16 == 0) then
    call('PEXPIRE', KEYS[2], 2 * FLOOR_LEASE / 1000)
  end
  count = n
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
  keep_machines(nil)
  return granted(0, 0, 0)
end

if not own then
  if their_life ~= life then
    unreported = max(unreported - held_floor, 0)
  end
  n = n + 1
  own, rewrite = n, true
  wants[n], weights[n], guarantees[n], own_floors[n] = want, weight, guaranteed, 0
end
if want > 0 then
  awake = awake + 1
else
  idle = idle + 1
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
  local wanted, least = wants[i], nil
  if wanted < 0 then
    wanted, least = 0, own_floors[i]
  else
    least = min(max(wanted, idle_floor), awake_floor)
    wanted = min(wanted, rate)
  end
  local base = min(wanted, guarantees[i])
  bases[i] = base
  parts[i] = wanted > 0 and max(weights[i], 1) or 0
  leasts[i] = least
  mosts[i] = max(wanted, least)
  open[i] = true
  guaranteed_to_all = guaranteed_to_all + base
end
local scale = guaranteed_to_all > to_divide and to_divide / guaranteed_to_all or 1
while open[own] do
  local rest, all_parts = to_divide, 0
  for i = 1, n do
    if open[i] then
      rest = rest - bases[i] * scale
      all_parts = all_parts + parts[i]
    else
      rest = rest - filled[i]
    end
  end
  local excess = 0
  for i = 1, n do
    if open[i] then
      local wish = bases[i] * scale + (all_parts > 0 and rest * parts[i] / all_parts or 0)
      local fills = max(min(wish, mosts[i]), leasts[i])
      wished[i], filled[i] = wish, fills
      excess = excess + (fills - wish)
    end
  end
  -- What is not open any more stays as it is.
  if excess == 0 then
    break
  end
  for i = 1, n do
    local above = filled[i] - wished[i]
    if (excess > 0 and above > 0) or (excess < 0 and above < 0) then
      open[i] = false
    end
  end
end
local entitled = floor(filled[own])

local free = max(rate - others - unheard, 0)
local new_floor = min(min(min(max(want, idle_floor), awake_floor), max(lent - other_floors - unheard, 0)), free)
local share = min(entitled, free)
if learns_until > clock then
  new_floor = min(new_floor, held_floor)
  share = min(share, held)
end
share = max(share, new_floor)

keep_machines(pack(MACHINE, machine, name, keeper, number, max(share, held), clock + LEASE + SLACK,
  max(new_floor, held_floor), clock + FLOOR_LEASE + SLACK, want, weight, guaranteed, moved))
return granted(share, new_floor, entitled)
