// SPDX-License-Identifier: Apache-2.0
// Timed kernels: roles in warps of their own, rings of slots between them, tiles in shared memory in the form that
// ldmatrix, wgmma and the bulk copies (TMA) share, and tiles in registers in the form of mma's fragments.
#define HOPPER (__CUDA_ARCH__ >= 900)
DEVICE u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE int warp_number() { return __shfl_sync(~0u, threadIdx.x / 32, 0); }  // known to be one a warp

// --- Rings ---------------------------------------------------------------------------------------------------
// A slot has two barriers, full and empty. A role goes through the slots in order; parities tell rounds apart.
DEVICE void barrier_init(u32 barrier, int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier) : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
#if HOPPER
    asm volatile("{ .reg .pred done;\n"
                 "WAIT: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra WAIT; }" ::"r"(barrier), "r"(parity) : "memory");
#else
    asm volatile("{ .reg .pred done;\n"
                 "WAIT: mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
                 "@!done bra WAIT; }" ::"r"(barrier), "r"(parity) : "memory");
#endif
}
template <int slots> DEVICE void ring_init(u32 barriers, int producers, int consumers) {  // counted in warps
    for (int i = 0; i < slots; i++) {
        barrier_init(barriers + 16 * i, producers * 32);
        barrier_init(barriers + 16 * i + 8, consumers * 32);
    }
}
template <int depth, int bytes> struct Ring {
    u32 first, barriers, slot, round;  // addresses in shared memory; the slot at hand

    DEVICE Ring(u32 f, u32 b) : first(f), barriers(b), slot(0), round(0) {}
    DEVICE u32 full() const { return barriers + 16 * slot; }
    DEVICE u32 empty() const { return barriers + 16 * slot + 8; }
    DEVICE void acquire() const { barrier_wait(empty(), round ^ 1); }
    DEVICE void await() const { barrier_wait(full(), round); }
    DEVICE void next() {
        if (++slot == depth) slot = 0, round ^= 1;
        // The addresses of many tiles that never move would be made ahead of the loop, and kept in registers.
        if (depth == 1 && bytes > 16384) asm volatile("" : "+r"(slot));
    }
    // Each lane arrives for itself. One for its warp costs the same, but racecheck would not understand it.
    // `copied`: when what this lane copied has landed.
    DEVICE void publish(bool copied = false) {
        if (copied) asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(full()) : "memory");
        else barrier_arrive(full());
        next();
    }
    DEVICE void release() {
        barrier_arrive(empty());
        next();
    }
    DEVICE bool is(const Ring &other) const { return slot == other.slot; }
    DEVICE u32 at(int offset) const { return first + slot * bytes + offset; }
    template <class T> DEVICE T *rows(int offset) const { return (T *)__cvta_shared_to_generic(at(offset)); }
};
// Copies of a ring that a role goes through one after the other, in each of its turns.
template <int depth, int bytes> struct Rings {
    Ring<depth, bytes> at_hand;

    DEVICE Rings(u32 f, u32 b) : at_hand(f, b) {}
    DEVICE void next() { at_hand.next(); }
    DEVICE Ring<depth, bytes> operator[](int copy) const {
        Ring<depth, bytes> one = at_hand;
        one.first += copy * depth * bytes, one.barriers += copy * depth * 16;
        return one;
    }
};
// What was written plainly is visible to wgmma and to bulk copies afterwards.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void role_sync(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
template <int n> DEVICE void set_registers_less() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n)); }
template <int n> DEVICE void set_registers_more() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n)); }

// --- Bulk copies: a box of a tensor, coordinates innermost first -------------------------------------------------
struct __align__(64) TensorMap {
    u64 opaque[16];
};
DEVICE void bulk_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
#define BULK_LOAD(rank, list, ...) \
    asm volatile("cp.async.bulk.tensor." #rank "d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {" list "}], [%2];" \
                 ::"r"(to), "l"(map), "r"(barrier), __VA_ARGS__ : "memory")
#define BULK_STORE(rank, list, ...) \
    asm volatile("cp.async.bulk.tensor." #rank "d.global.shared::cta.bulk_group [%0, {" list "}], [%1];" \
                 ::"l"(map), "r"(from), __VA_ARGS__ : "memory")
DEVICE void bulk_load(u32 to, const TensorMap *map, u32 barrier, int a) { BULK_LOAD(1, "%3", "r"(a)); }
DEVICE void bulk_load(u32 to, const TensorMap *map, u32 barrier, int a, int b) { BULK_LOAD(2, "%3,%4", "r"(a), "r"(b)); }
DEVICE void bulk_load(u32 to, const TensorMap *map, u32 barrier, int a, int b, int c) {
    BULK_LOAD(3, "%3,%4,%5", "r"(a), "r"(b), "r"(c));
}
DEVICE void bulk_load(u32 to, const TensorMap *map, u32 barrier, int a, int b, int c, int d) {
    BULK_LOAD(4, "%3,%4,%5,%6", "r"(a), "r"(b), "r"(c), "r"(d));
}
DEVICE void bulk_load(u32 to, const TensorMap *map, u32 barrier, int a, int b, int c, int d, int e) {
    BULK_LOAD(5, "%3,%4,%5,%6,%7", "r"(a), "r"(b), "r"(c), "r"(d), "r"(e));
}
DEVICE void bulk_store(const TensorMap *map, u32 from, int a) { BULK_STORE(1, "%2", "r"(a)); }
DEVICE void bulk_store(const TensorMap *map, u32 from, int a, int b) { BULK_STORE(2, "%2,%3", "r"(a), "r"(b)); }
DEVICE void bulk_store(const TensorMap *map, u32 from, int a, int b, int c) {
    BULK_STORE(3, "%2,%3,%4", "r"(a), "r"(b), "r"(c));
}
DEVICE void bulk_store(const TensorMap *map, u32 from, int a, int b, int c, int d) {
    BULK_STORE(4, "%2,%3,%4,%5", "r"(a), "r"(b), "r"(c), "r"(d));
}
DEVICE void bulk_store(const TensorMap *map, u32 from, int a, int b, int c, int d, int e) {
    BULK_STORE(5, "%2,%3,%4,%5,%6", "r"(a), "r"(b), "r"(c), "r"(d), "r"(e));
}
DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
DEVICE void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEVICE void bulk_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// --- Tiles in shared memory: panels of 64 columns, 16-byte piece k of row r at piece k ^ (r & 7) -------------------
template <int rows> DEVICE u32 piece_at(u32 tile, int row, int piece) {
    return tile + piece / 8 * (rows * 128) + row * 128 + ((piece % 8 ^ row % 8) << 4);
}
// Copies by the threads of a role, where a bulk copy is not possible.
template <int bytes> DEVICE void copy(u32 to, const void *from, int there) {  // zeros behind `there` bytes
    const auto at = __cvta_generic_to_global(from);
    if constexpr (bytes == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(at), "n"(bytes), "r"(there) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(at), "n"(bytes), "r"(there) : "memory");
}
// What there is of a tile in a tensor: rows top .. bottom - 1 and columns left .. right - 1. Its first element would
// lie at `first`; rows and columns are so many elements apart.
template <class T> struct Part {
    T *first;
    i64 down, across;
    int top, bottom, left, right;

    DEVICE bool dense() const { return across == 1 && left <= 0; }
    DEVICE int pieces() const {  // bytes that all its rows may be moved in, from `first` on
        const u32 odd = ((u32)(u64)first | (u32)down * (u32)sizeof(T)) & 15;
        return across != 1 ? sizeof(T) : odd == 0 ? 16 : odd == 8 ? 8 : odd % 4 == 0 ? 4 : 2;
    }
    DEVICE int unit() const { return left <= 0 ? pieces() : sizeof(T); }
    DEVICE bool has(int row) const { return (u32)(row - top) < (u32)maximum(bottom - top, 0); }
    DEVICE T *at(int row, int column) const { return first + row * down + column * across; }
};
template <class T> DEVICE Part<T> part(T *first, i64 down, i64 across, int top, int bottom, int left, int right) {
    return {first, down, across, top, bottom, left, right};
}
DEVICE u32 bits_of(const float *p) { return p ? __float_as_uint(*p) : 0; }
template <class T> DEVICE u32 bits_of(T *p) { return p ? p->bits : 0; }
template <class V> DEVICE void put_piece(u32 to, V v) { *(V *)__cvta_shared_to_generic(to) = v; }
DEVICE uint4 get_piece(u32 from) { return *(const uint4 *)__cvta_shared_to_generic(from); }
// Copies arrive at barriers by themselves: behind what was written plainly beside them.
DEVICE void written() { __threadfence_block(); }
// A thread's copies in groups: waits for all but the last `under_way` of them.
DEVICE void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int under_way> DEVICE void copies_wait() {
    if (under_way) asm volatile("cp.async.wait_group %0;" ::"n"(under_way) : "memory");
    else asm volatile("cp.async.wait_all;" ::: "memory");
}
// Lanes for `wide` pieces beside each other: many, for whole lines of memory, but few of them idle; and so many that the
// threads have no more than `rows`.
static DEVICE constexpr int lanes_beside(int wide, int threads, int rows) {
    int n = threads < 32 ? threads : 32;
    while (4 * wide < 3 * n * ((wide + n - 1) / n)) n /= 2;
    while (n * rows < threads) n *= 2;
    return n;
}
// In pieces of 16, 8 or 4 bytes, of `reach` columns. A thread keeps to a column and goes down the rows, several at a time.
template <int rows, int reach, int threads, int unit, class T> DEVICE void fetch_part(u32 tile, int thread, const Part<T> &p) {
    constexpr int step = unit / 2, wide = reach / step, beside = lanes_beside(wide, threads, rows), pass = threads / beside;
    constexpr int most = WGMMA ? 8 : 4, ahead = rows % (most * pass) == 0 ? most : 1;
    static_assert((pass & (pass - 1)) == 0, "a step down changes the same bits of the swizzle in every row");
    static_assert(pass <= rows, "no thread is beside the tile");
    const int first = thread / beside;  // of its rows
    const i64 down = pass * p.down * 2;
    #pragma unroll 1
    for (int column = thread % beside * step; column < reach; column += beside * step) {
        const u32 to = piece_at<rows>(tile, first, column / 8) + column % 8 * 2;
        u64 from = (u64)p.at(first, column);
        const int there = maximum(minimum(2 * (p.right - column), unit), 0);
        asm volatile("" : "+l"(from));  // an address, not to be put together again for each copy
        if (ahead > 1 && p.top <= 0 && p.bottom >= rows) {
            #pragma unroll 1
            for (u32 block = 0; block < rows * 128; block += ahead * pass * 128) {
                #pragma unroll
                for (int i = 0; i < ahead; i++, from += down)
                    copy<unit>((to ^ (i * pass % 8 << 4)) + block + i * pass * 128, (const T *)from, there);
            }
        } else {
            #pragma unroll 1
            for (int row = first; row < rows; row += pass, from += down)
                copy<unit>((to ^ ((row - first) % 8 << 4)) + (row - first) * 128, (const T *)from, p.has(row) ? there : 0);
        }
    }
}
// Where that is not possible, or seldom: in words, or element by element.
template <int rows, int columns, int threads, class T> DEVICE void fetch_slowly(u32 tile, int thread, const Part<T> &p) {
    const bool words = p.unit() >= 4;
    #pragma unroll 1
    for (int e = thread; e < rows * (columns / 8); e += threads) {
        const int row = e / (columns / 8), column = e % (columns / 8) * 8;
        const u32 to = piece_at<rows>(tile, row, column / 8);
        const T *from = p.at(row, column);
        if (words) {
            #pragma unroll
            for (int i = 0; i < 4; i++)
                copy<4>(to + 4 * i, from + 2 * i, p.has(row) ? maximum(minimum(2 * (p.right - column) - 4 * i, 4), 0) : 0);
        } else {
            #pragma unroll 1
            for (int half = 0; half < 8; half += 4) {
                u32 some[4];
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int at = column + half + i;
                    some[i] = p.has(row) && at >= p.left && at < p.right ? from[(half + i) * p.across].bits : 0;
                }
                put_piece(to + 2 * half, make_uint2(some[0] | some[1] << 16, some[2] | some[3] << 16));
            }
        }
    }
    written();
}
// How far the first row lies from a piece, and the rows from each other, in elements: 6 bits.
template <class T> DEVICE u32 odd_rows(const Part<T> &p) { return (u32)(u64)p.first >> 1 & 7 | ((u32)p.down & 7) << 3; }
// Rows as they lie in memory, each from the piece that it begins in. Behind them stands where that is (odd_rows).
template <int columns> DEVICE constexpr int loose_row() { return 2 * columns + 16; }
template <int rows, int columns> DEVICE void loose_begin(u32 tile, int thread, u32 by) {
    if (thread == 0) put_piece(tile + rows * loose_row<columns>(), by);
}
template <int rows, int columns, int threads, class F> DEVICE void fetch_loose_elements(u32 tile, int thread, F at) {
    loose_begin<rows, columns>(tile, thread, 0);
    #pragma unroll 1
    for (int e = thread; e < rows * columns; e += threads)
        put_piece(tile + e / columns * loose_row<columns>() + e % columns * 2, (u16)bits_of(at(e / columns, e % columns)));
    written();
}
template <int rows, int columns, int used, int threads, class F> DEVICE void fetch_loose(u32 tile, int thread, F part_at) {
    constexpr int pieces = (used + 14) / 8;  // of a row, at most
    static_assert(rows % 8 == 0, "rows by eight begin alike");
    const auto p = part_at(0);
    if (!p.dense()) {
        fetch_loose_elements<rows, columns, threads>(tile, thread, [&](int row, int column) {
            return p.has(row) && column >= p.left && column < p.right ? p.at(row, column) : nullptr;
        });
        return;
    }
    loose_begin<rows, columns>(tile, thread, odd_rows(p));
    const int bytes = 2 * maximum(minimum(p.right, used), 0);
    #pragma unroll 1
    for (int e = thread; e < 8 * pieces; e += threads) {
        const int row = e / pieces, at = e % pieces * 16;
        u64 from = (u64)p.at(row, 0);
        const int before = (int)(from & 15), there = minimum(bytes + before - at, 16);
        const u32 to = tile + row * loose_row<columns>() + at;
        if (there <= 0) continue;
        from += at - before;
        if (p.top <= 0 && p.bottom >= rows) {
            #pragma unroll
            for (int i = 0; i < rows; i += 8, from += 16 * p.down) copy<16>(to + i * loose_row<columns>(), (const void *)from, there);
        } else {
            #pragma unroll 1
            for (int i = 0; i < rows; i += 8, from += 16 * p.down) copy<16>(to + i * loose_row<columns>(), (const void *)from, p.has(row + i) ? there : 0);
        }
    }
    written();
}
// Rows of an odd number of elements are copied in pieces from the one on that they begin in, and then shifted into place,
// a row by one thread. Where a tile has no room for the last piece, its words go into the gap that is left in front:
//     memory   --abc|defgh|ij---      in the tile   ijabc|defgh      shifted   abcde|fghij
template <int used> DEVICE constexpr int odd_pieces() { return (used + 14) / 8; }  // of a row in memory, at most
template <int used> DEVICE constexpr int odd_there() {                             // and of a tile's row
    constexpr int all = odd_pieces<used>(), room = (used + 63) / 64 * 8;
    return all < room ? all : room;
}
template <int rows> DEVICE u32 next_piece(u32 first, int k) { return (first ^ (k % 8 << 4)) + k / 8 * (rows * 128); }
struct OddTile {
    u32 tile, by;  // how it is to be shifted; 0: not at all
};
template <int rows, int used, int threads, class T> DEVICE u32 fetch_odd(u32 tile, u32 thread, const Part<T> &p) {
    constexpr int all = odd_pieces<used>(), there = odd_there<used>(), pair = used > 16 && rows % (2 * threads) == 0 ? 2 : 1;
    static_assert(used % 64 != 0, "a word for each of a row's in the tile");
    asm volatile("" : "+r"(thread));  // what follows from it is not kept through the role's loop
    // Two rows at a time, in short loops: several roles run this beside others, and instructions have to be fetched, too.
    #pragma unroll 1
    for (u32 above = 0; above < rows && (rows % threads == 0 || above + thread < rows); above += pair * threads) {
        u64 from[pair];
        u32 to[pair];
        int bytes[pair];  // from there on, up to the row's end
        #pragma unroll
        for (int i = 0; i < pair; i++) {
            const u32 r = above + i * threads + thread;
            from[i] = (u64)p.at(r, 0), to[i] = (tile + r * 128) ^ (r % 8 << 4);
            const int before = (int)(from[i] & 15);
            from[i] -= before, bytes[i] = p.has(r) ? 2 * used + before : 0;
            asm volatile("" : "+l"(from[i]));  // an address, not to be put together again for each copy
            #pragma unroll
            for (int e = 0; e < 16 && there < all; e += 4) {
                const int at = e + 4 > before ? e : e + 16 * there;
                copy<4>(to[i] + e, (const T *)(from[i] + at), maximum(minimum(bytes[i] - at, 4), 0));
            }
        }
        #pragma unroll 4
        for (int k = there < all; k < used / 8; k++)  // all but the last pieces are whole
            #pragma unroll
            for (int i = 0; i < pair; i++)
                copy<16>(next_piece<rows>(to[i], k), (const T *)(from[i] + 16 * k), bytes[i] ? 16 : 0);
        #pragma unroll
        for (int k = used / 8; k < there; k++)
            #pragma unroll
            for (int i = 0; i < pair; i++)
                copy<16>(next_piece<rows>(to[i], k), (const T *)(from[i] + 16 * k), maximum(minimum(bytes[i] - 16 * k, 16), 0));
    }
    return odd_rows(p);
}
// Words of a row go in, the last one first, and come out shifted down by some elements.
struct Shift {
    bool four, two;
    u32 bits, behind[2], by_four, by_two;  // what came last, after each step

    DEVICE u32 next(u32 word) {
        const u32 a = four ? behind[1] : word, b = two ? by_four : a, out = (u32)(((u64)by_two << 32 | b) >> bits);
        behind[1] = behind[0], behind[0] = word, by_four = a, by_two = b;
        return out;
    }
    DEVICE uint4 next(uint4 v) {
        v.w = next(v.w), v.z = next(v.z), v.y = next(v.y), v.x = next(v.x);
        return v;
    }
};
template <int rows, int used, int threads> DEVICE void settle_rows(u32 tile, u32 thread, u32 rows_by) {
    constexpr int there = odd_there<used>(), more = used % 8, pair = rows % (2 * threads) == 0 ? 2 : 1;
    constexpr bool wraps = there < odd_pieces<used>();
    asm volatile("" : "+r"(thread));
    #pragma unroll 1
    for (u32 above = 0; above < rows && (rows % threads == 0 || above + thread < rows); above += pair * threads) {
        u32 at[pair];
        uint4 v[pair];
        Shift shift[pair];
        #pragma unroll
        for (int i = 0; i < pair; i++) {
            const u32 r = above + i * threads + thread, by = rows_by + (rows_by >> 3) * r;
            at[i] = (tile + r * 128) ^ (r % 8 << 4);
            shift[i] = {(by & 4) != 0, (by & 2) != 0, (by & 1) * 16, {0, 0}, 0, 0};
            if (wraps) shift[i].next(get_piece(at[i]));
            v[i] = get_piece(next_piece<rows>(at[i], there - 1));
        }
        #pragma unroll 1
        for (int k = there - 1; k >= 0; k--) {
            #pragma unroll
            for (int i = 0; i < pair; i++) {
                uint4 w = shift[i].next(v[i]);
                if (k) v[i] = get_piece(next_piece<rows>(at[i], k - 1));
                if (wraps && k == there - 1) {  // behind the row's end came what lies before its beginning
                    if (more < 4) w.y &= 0xffff, w.z = 0;
                    if (more == 5) w.z &= 0xffff;
                    w.w = more < 7 ? 0 : w.w & 0xffff;
                }
                put_piece(next_piece<rows>(at[i], k), w);
            }
        }
    }
}
// One tile behind the other: it is the same code.
template <int rows, int used, int threads, class... Tiles> DEVICE void settle_odd(int thread, Tiles... tiles) {
    constexpr int n = sizeof...(tiles);
    OddTile v[n] = {tiles...};
    #pragma unroll 1
    for (int t = 0; t < n; t++) {
        if (v[0].by) settle_rows<rows, used, threads>(v[0].tile, thread, v[0].by);
        #pragma unroll
        for (int i = 1; i < n; i++) v[i - 1] = v[i];
    }
}
// `often`: the unit that is to be expected, 0: this is seldom done. `used`: of the tile's columns the tensor has; those
// behind them are zero from the start. Returns what settle_odd needs.
template <int rows, int columns, int used, int tiles, int threads, int often, class F> DEVICE u32 fetch_tile(u32 tile, int thread, F part_at) {
    constexpr int bytes = (columns + 63) / 64 * (rows * 128), reach = (used + 7) / 8 * 8;
    u32 odd = 0;
    #pragma unroll 1
    for (int t = 0; t < tiles; t++, tile += bytes) {
        const auto p = part_at(t * rows);
        if constexpr (often == 2 && used % 64 != 0) {
            odd = 0;
            if (p.dense()) odd = fetch_odd<rows, used, threads>(tile, thread, p);
            else fetch_slowly<rows, columns, threads>(tile, thread, p);
            if (tiles > 1) {
                copies_wait<0>();
                settle_odd<rows, used, threads>(thread, OddTile{tile, odd});
                written();
            }
        } else if constexpr (often > 2) {
            if (p.unit() >= often) fetch_part<rows, reach, threads, often>(tile, thread, p);
            else fetch_slowly<rows, columns, threads>(tile, thread, p);
        } else {
            fetch_slowly<rows, columns, threads>(tile, thread, p);
        }
    }
    return tiles > 1 ? 0 : odd;
}
// The same for what is sent, where threads wait for what they load, and a turn more costs about as much as eight pieces.
static DEVICE constexpr int lanes_sending(int wide, int threads, int rows) {
    int best = 0, least = 0;
    for (int n = 1; n <= 32 && n <= threads; n *= 2) {
        const int cost = (wide + n - 1) / n * (8 + rows * n / threads);
        if (n * rows >= threads && (!best || cost <= least)) best = n, least = cost;
    }
    return best;
}
// `own`: a warp's part of each 64 columns are the 16 that it wrote itself.
template <int rows, int columns, int used, int threads, bool own, int unit, class T> DEVICE void send_part(u32 tile, int thread, const Part<T> &p) {
    constexpr int step = unit / 2, mine = 16 / step, wide = own ? (columns + 63) / 64 * mine : (used + step - 1) / step;
    constexpr int workers = own ? 32 : threads, beside = lanes_sending(wide, workers, rows), pass = workers / beside;
    constexpr int ahead = rows % (4 * pass) == 0 ? 4 : 1;
    static_assert(pass <= rows, "no thread is beside the tile");
    struct __align__(unit) Piece { u16 bits[step]; };
    const int worker = thread % workers, first = worker / beside;
    const i64 down = pass * p.down * 2;
    #pragma unroll 1
    for (int k = worker % beside; k < wide; k += beside) {
        const int column = own ? k / mine * 64 + thread / 32 * 16 + k % mine * step : k * step, there = minimum(p.right - column, step);
        const u32 from = piece_at<rows>(tile, first, column / 8) + column % 8 * 2;
        u64 to = (u64)p.at(first, column);
        asm volatile("" : "+l"(to));
        if (there <= 0 || column < p.left) continue;
        if (there == step && p.top <= 0 && p.bottom >= rows) {
            #pragma unroll 1
            for (int row = 0; row < rows; row += ahead * pass) {
                Piece some[ahead];
                #pragma unroll
                for (int i = 0; i < ahead; i++)
                    some[i] = *(const Piece *)__cvta_shared_to_generic((from ^ ((row + i * pass) % 8 << 4)) + (row + i * pass) * 128);
                #pragma unroll
                for (int i = 0; i < ahead; i++, to += down) *(Piece *)to = some[i];
            }
        } else {
            #pragma unroll 1
            for (int row = 0; row < rows; row += pass, to += down) {
                if (!p.has(first + row)) continue;
                const Piece some = *(const Piece *)__cvta_shared_to_generic((from ^ (row % 8 << 4)) + row * 128);
                #pragma unroll
                for (int i = 0; i < step; i++)
                    if (i < there) ((T *)to)[i].bits = some.bits[i];
            }
        }
    }
}
DEVICE void store_if(bool yes, void *to, uint4 v) {
    asm volatile(IF(5) "st.global.v4.u32 [%4], {%0,%1,%2,%3}; }" ::"r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), GLOBAL(to), "r"((int)yes) : "memory");
}
DEVICE void store_if(bool yes, void *to, u16 v) {
    asm volatile(IF(2) "st.global.u16 [%1], %0; }" ::"h"(v), GLOBAL(to), "r"((int)yes) : "memory");
}
// The last 8 elements of 16, `by` of them further up.
DEVICE uint4 shift_up(uint4 below, uint4 v, int by) {
    if (by & 4) v = make_uint4(below.z, below.w, v.x, v.y), below.z = below.x, below.w = below.y;
    if (by & 2) v = make_uint4(below.w, v.x, v.y, v.z), below.w = below.z;
    const auto one = [&](u32 low, u32 high) { return (u32)(((u64)high << 32 | low) << (by & 1) * 16 >> 32); };
    return make_uint4(one(below.w, v.x), one(v.x, v.y), one(v.y, v.z), one(v.z, v.w));
}
// An element of every `few`-th row from one on, of tiles that are all there: the ends of 16-byte pieces of memory. Loads come
// before the stores of whole pieces, so that nothing waits for them.
template <int rows, int few> struct Column {
    u32 row, column;
    u16 v[rows / few];

    DEVICE Column(u32 tile, u32 r, u32 c) : row(r), column(c) {
        static_assert(few % 8 == 0 && rows % few == 0, "steps leave the swizzle as it is");
        const u16 *from = (const u16 *)__cvta_shared_to_generic(piece_at<rows>(tile, row, column / 8)) + column % 8;
        #pragma unroll
        for (int i = 0; i < rows / few; i++) v[i] = from[i * few * 64];
    }
    template <class T> DEVICE void send(bool there, const Part<T> &p) const {
        auto to = p.first + row * p.down + column;
        #pragma unroll
        for (int i = 0; i < rows / few; i++, to += few * p.down) store_if(there, to, v[i]);
    }
};
// Rows that begin anywhere: pieces as they lie in memory, put together of two each.
template <int used> DEVICE constexpr int odd_beside() {  // whole ones in a row, at most, rounded up
    int n = 1;
    while (n < (used + 7) / 8) n *= 2;
    return n;
}
template <int rows, int used, int threads, class T> DEVICE void send_odd(u32 tile, u32 thread, const Part<T> &p) {
    constexpr int beside = odd_beside<used>(), pass = threads / beside, turns = rows / pass;
    static_assert(pass % 8 == 0 && rows % pass == 0, "a thread's rows begin alike");
    const int columns = maximum(minimum(p.right, used), 0);
    asm volatile("" : "+r"(thread));  // what follows from it is not kept through the role's loop
    const int end = thread % 8, row = thread / 8, before = (int)((u64)(p.first + row * p.down) >> 1 & 7);
    const int front = minimum(-before & 7, columns), ends = minimum(front + (columns + before & 7), columns);
    Column<rows, threads / 8> first(tile, row, end < front ? end : end < ends ? columns - ends + end : 0);
    if (columns >= 8) {
        const int k = thread % beside, row = thread / beside;  // and not as above
        auto to = p.first + row * p.down;
        const int before = (int)((u64)to >> 1 & 7);
        const bool whole = 8 * k >= before && 8 * k + 8 <= columns + before;
        const u32 from = piece_at<rows>(tile, row, k), below = piece_at<rows>(tile, row, maximum(k - 1, 0));
        uint4 v[turns], b[turns];
        #pragma unroll
        for (int i = 0; i < turns; i++) v[i] = get_piece(from + i * pass * 128), b[i] = get_piece(below + i * pass * 128);
        to += 8 * k - before;
        #pragma unroll
        for (int i = 0; i < turns; i++, to += pass * p.down) store_if(whole, to, shift_up(b[i], v[i], before));
    }
    first.send(end < ends, p);
    #pragma unroll 1
    for (int e = end + 8; e < ends; e += 8) Column<rows, threads / 8>(tile, row, e < front ? e : columns - ends + e).send(true, p);
}
template <int rows, int columns, int used, int tiles, int threads, bool own, int often, class F> DEVICE void send_tile(u32 tile, int thread, F part_at) {
    constexpr int best = often ? often : 16, few = threads / odd_beside<used>();
    constexpr bool odd = (often == 2 || often == 4) && !own && used >= 24 && few % 8 == 0 && rows % few == 0;
    #pragma unroll 1
    for (int t = 0; t < tiles; t++, tile += (columns + 63) / 64 * (rows * 128)) {
        const auto p = part_at(t * rows);
        const int unit = p.unit();
        if constexpr (odd) {
            if (p.dense() && p.top <= 0 && p.bottom >= rows) {
                send_odd<rows, used, threads>(tile, thread, p);
                continue;
            }
        }
        if (unit >= best) send_part<rows, columns, used, threads, own, best>(tile, thread, p);
        else if (often == 0 && unit >= 4) send_part<rows, columns, used, threads, own, 4>(tile, thread, p);
        else send_part<rows, columns, used, threads, own, 2>(tile, thread, p);
    }
}
// A tile whose rows begin with, and end with, columns of others: whole pieces of 16 bytes, then what is left at both ends.
// The role's products are done by then and nothing hides this: as few instructions as can be.
template <int rows, int columns, int threads, class F> DEVICE void send_shifted(u32 tile, u32 thread, F part_at) {
    constexpr int wide = columns / 8, pass = threads / wide, ends = 16, few = threads / ends;
    static_assert(rows % pass == 0 && pass % 8 == 0, "steps leave the swizzle as it is");
    const auto p = part_at(0);
    const u32 left = maximum(p.left, 0), right = maximum(minimum(p.right, columns), 0);
    if (p.pieces() < 16 || p.top > 0 || p.bottom < rows) {
        #pragma unroll 1
        for (int e = thread; e < rows * columns; e += threads) {
            const u32 row = e / columns, column = e % columns;
            const u16 v = *(const u16 *)__cvta_shared_to_generic(piece_at<rows>(tile, row, column / 8) + column % 8 * 2);
            store_if(p.has(row) && column >= left && column < right, p.at(row, column), v);
        }
        return;
    }
    const u32 before = (left + 7) / 8 * 8, behind = right / 8 * 8, end = thread % ends, row = thread / ends;
    const u32 at = end < 8 ? before - 8 + end : (behind > before ? behind : before) - 8 + end;
    const bool there = at >= left && at < right;  // none before 0 is
    const Column<rows, few> both(tile, row, there ? at : 0);
    {
        const u32 column = thread % wide * 8, row = thread / wide;
        const bool whole = column >= left && column + 8 <= right;
        const uint4 *from = (const uint4 *)__cvta_shared_to_generic(piece_at<rows>(tile, row, column / 8));
        auto to = p.first + row * p.down + column;
        uint4 some[rows / pass];
        #pragma unroll
        for (int i = 0; i < rows / pass; i++) some[i] = from[i * pass * 8];
        #pragma unroll
        for (int i = 0; i < rows / pass; i++, to += pass * p.down) store_if(whole, to, some[i]);
    }
    both.send(there, p);
}
// The same where a tile's elements lie anyhow: at(row, column) is where, null: nowhere. Rows of all tiles that follow
// each other are counted on.
template <int rows, int columns, int tiles, int threads, class F> DEVICE void fetch_elements(u32 tile, int thread, F at) {
    constexpr int bytes = (columns + 63) / 64 * (rows * 128), wide = columns / 2;
    #pragma unroll 1
    for (int e = thread; e < tiles * rows * wide; e += threads) {
        const int row = e / wide, column = e % wide * 2;
        const u32 two = bits_of(at(row, column)) | bits_of(at(row, column + 1)) << 16;
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(piece_at<rows>(tile + row / rows * bytes, row % rows, column / 8) + column % 8 * 2), "r"(two) : "memory");
    }
    written();
}
template <int rows, int columns, int tiles, int threads, class F> DEVICE void send_elements(u32 tile, int thread, F at) {
    constexpr int bytes = (columns + 63) / 64 * (rows * 128);
    #pragma unroll 1
    for (int e = thread; e < tiles * rows * columns; e += threads) {
        const int row = e / columns, column = e % columns;
        const u16 *from = (const u16 *)__cvta_shared_to_generic(piece_at<rows>(tile + row / rows * bytes, row % rows, column / 8) + column % 8 * 2);
        if (auto *to = at(row, column)) to->bits = *from;
    }
}
// Rows of numbers. `pieces`: elements beside each other are there or not by their bounds alone, so the ends of a piece
// speak for it.
template <class T> DEVICE bool one_piece(const T *first, const T *last) {
    return first && last && last - first == 16 / sizeof(T) - 1 && (u64)first % 16 == 0;
}
template <int rows, int columns, int threads, bool pieces, class T, class F> DEVICE void fetch_rows(T *tile, int thread, F at) {
    constexpr int wide = 16 / sizeof(T), step = columns % wide ? 1 : wide;
    #pragma unroll 1
    for (int e = thread; e < rows * columns / step; e += threads) {
        const int row = e / (columns / step), column = e % (columns / step) * step;
        T *to = tile + e * step;
        const T *first = at(row, column);
        if (pieces && step > 1 && one_piece(first, at(row, column + step - 1))) {
            copy<16>(shared_address(to), first, 16);
        } else if constexpr (sizeof(T) == 4) {
            #pragma unroll 1
            for (int i = 0; i < step; i++) {
                const T *from = at(row, column + i);
                copy<4>(shared_address(to + i), from, from ? 4 : 0);
            }
        } else {  // all under way before the first is needed
            u32 bits[step];
            #pragma unroll
            for (int i = 0; i < step; i++) bits[i] = bits_of(at(row, column + i));
            #pragma unroll
            for (int i = 0; i < step; i++) to[i].bits = (u16)bits[i];
            written();
        }
    }
}
// Rows of 32-bit numbers that lie in equal steps.
template <int rows, int columns, int threads, class F> DEVICE void fetch_numbers(float *tile, int thread, F part_at) {
    const auto p = part_at(0);
    const u32 to = shared_address(tile);
    if (columns % 4 == 0 && p.unit() == 16 && p.right >= columns) {
        #pragma unroll 1
        for (int e = thread; e < rows * columns / 4; e += threads) {
            const int row = e / (columns / 4);
            copy<16>(to + 16 * e, p.at(row, e % (columns / 4) * 4), p.has(row) ? 16 : 0);
        }
    } else if constexpr (threads % columns == 0 && rows % (threads / columns) == 0) {  // a thread keeps to its column
        constexpr int pass = threads / columns, ahead = rows % (4 * pass) == 0 ? 4 : 1;
        const int column = thread % columns, first = thread / columns;
        const auto *from = p.at(first, column);
        const bool there = column >= p.left && column < p.right;
        #pragma unroll 1
        for (int row = 0; row < rows; row += ahead * pass)
            #pragma unroll
            for (int i = 0; i < ahead; i++, from += pass * p.down)
                copy<4>(to + 4 * (row * columns + thread) + i * threads * 4, from, there && p.has(row + i * pass + first) ? 4 : 0);
    } else {
        #pragma unroll 1
        for (int e = thread; e < rows * columns; e += threads) {
            const int row = e / columns, column = e % columns;
            copy<4>(to + 4 * e, p.at(row, column), p.has(row) && column >= p.left && column < p.right ? 4 : 0);
        }
    }
}
template <int slots, int step> DEVICE void clear_tiles(unsigned char *first, int bytes) {
    #pragma unroll 1
    for (int i = 0; i < slots; i++)
        for (int e = threadIdx.x * 16; e < bytes; e += blockDim.x * 16) *(uint4 *)(first + i * step + e) = make_uint4(0, 0, 0, 0);
}

// --- Fragments: 16 x 16 elements of a tile, four 8 x 8 matrices in 32-bit words of a warp's lanes --------------------
// A lane's word 2*u + h has row lane/4 + 8*h, columns 8*u + lane%4*2 and the next one. `turned`: the fragment's rows
// are the tile's columns. Where this lane's row of the matrices lies; `row` and `piece` are where the 16 x 16 begin,
// in the tile.
template <int rows, bool turned> DEVICE u32 matrices_at(u32 tile, int row, int piece) {
    const int lane = threadIdx.x % 32, r = turned ? lane % 8 + lane / 16 * 8 : lane % 16, p = turned ? lane / 8 % 2 : lane / 16;
    return ((tile + r * 128 + ((p ^ lane % 8) << 4)) ^ (piece % 8 << 4)) + row * 128 + piece / 8 * (rows * 128);
}
template <bool transposed> DEVICE void load_matrices(u32 *w, u32 from) {
    if (transposed) asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "r"(from));
    else asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "r"(from));
}
template <bool transposed> DEVICE void load_two_matrices(u32 *w, u32 from) {
    if (transposed) asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "r"(from));
    else asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "r"(from));
}
template <int rows, bool turned> DEVICE void load_fragment(u32 *w, u32 tile, int row, int piece) {
    load_matrices<turned>(w, matrices_at<rows, turned>(tile, row, piece));
}
// From rows as they lie in memory: the fragment's rows are the tile's columns. `row` and `column` are where this lane's
// first element is; rows by eight begin alike.
template <int columns> DEVICE const u16 *loose_at(u32 tile, u32 by, int row, int column) {
    return (const u16 *)__cvta_shared_to_generic(tile + row * loose_row<columns>() + 2 * (column + (by + (by >> 3) * row & 7)));
}
template <int rows, int columns> DEVICE void load_loose(u32 *w, u32 tile, int row, int column) {
    const u32 by = *(const u32 *)__cvta_shared_to_generic(tile + rows * loose_row<columns>());
    const u16 *low = loose_at<columns>(tile, by, row, column), *high = loose_at<columns>(tile, by, row + 1, column);
    #pragma unroll
    for (int e = 0; e < 4; e++) {
        const int at = e / 2 * 4 * loose_row<columns>() + e % 2 * 8;
        w[e] = low[at] | (u32)high[at] << 16;
    }
}
template <int rows, bool turned, int n> DEVICE void store_fragment(u32 tile, int row, int piece, const u32 (&w)[n]) {
#if HOPPER
    const u32 to = matrices_at<rows, turned>(tile, row, piece);
    if (n == 2 && turned) asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1,%2};" ::"r"(to), "r"(w[0]), "r"(w[1]));
    else if (n == 2) asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1,%2};" ::"r"(to), "r"(w[0]), "r"(w[1]));
    else if (turned) asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(w[0]), "r"(w[1]), "r"(w[n - 2]), "r"(w[n - 1]));
    else asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(w[0]), "r"(w[1]), "r"(w[n - 2]), "r"(w[n - 1]));
#else
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
    #pragma unroll
    for (int i = 0; i < n; i++) {
        const int r = g + i % 2 * 8, c = t + i / 2 * 8;
        if (turned) {
            const u32 to = piece_at<rows>(tile, row + c, piece + r / 8) + r % 8 * 2, next = piece_at<rows>(tile, row + c + 1, piece + r / 8) + r % 8 * 2;
            asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"((u16)w[i]));
            asm volatile("st.shared.u16 [%0], %1;" ::"r"(next), "h"((u16)(w[i] >> 16)));
        } else {
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(piece_at<rows>(tile, row + r, piece + c / 8) + c % 8 * 2), "r"(w[i]));
        }
    }
#endif
}

// --- Pairs: two columns of a row, one word of a fragment ---------------------------------------------------------
DEVICE float2 fetch2(const float *p) { return __ldg((const float2 *)p); }
DEVICE float2 fetch2(float *p) { return *(const float2 *)p; }
DEVICE float2 unpack(u32 w, bf16) { return make_float2(__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u)); }
DEVICE float2 unpack(u32 w, f16) { return make_float2(decode(f16{(u16)w}), decode(f16{(u16)(w >> 16)})); }
template <class H> DEVICE float2 fetch2(const H *p) { return unpack(__ldg((const u32 *)p), H()); }
template <class H> DEVICE float2 fetch2(H *p) { return unpack(*(const u32 *)p, H()); }
DEVICE void encode2(float2 v, float *to) { *(float2 *)to = v; }
template <class H> DEVICE void encode2(float2 v, H *to) { *(u32 *)to = pack(v.x, v.y, H()); }
DEVICE float select(bool when, float v, float otherwise) { return when ? v : otherwise; }  // v is computed: no branch
DEVICE float2 twice(float v) { return make_float2(v, v); }
DEVICE float2 pair(const float *row, int i) { return *(const float2 *)(row + i); }
template <class H> DEVICE float2 pair(const H *row, int i) { return unpack(*(const u32 *)(row + i), H()); }

// Two bf16 times two f32. The factor is split in two bf16, so that the product is rounded once.
DEVICE u32 scaled(u32 word, float2 by) {
    const u32 high = pack(by.x, by.y, bf16());
    const float2 head = unpack(high, bf16());
    const u32 low = pack(by.x - head.x, by.y - head.y, bf16());
    u32 r;
    asm("{ .reg .b32 r, zero; mov.b32 zero, 0x80008000;\n"
        "fma.rn.bf16x2 r, %1, %3, zero; fma.rn.bf16x2 %0, %1, %2, r; }" : "=r"(r) : "r"(word), "r"(high), "r"(low));
    return r;
}
// (x0, x1) -> (-x1, x0) along the columns of a tile: neighbours, or halves; of so many words a block of 64 rows.
template <int words, int all, bool halves> DEVICE void swap_columns(u32 *to, const u32 *from) {
    #pragma unroll
    for (int e = 0; e < all; e++) {
        const int half = words / 2, other = e % words < half ? e + half : e - half;
        to[e] = !halves ? (from[e] >> 16 | from[e] << 16) ^ 0x8000u : e % words < half ? from[other] ^ 0x80008000u : from[other];
    }
}
template <int words, int all, bool halves> DEVICE void swap_columns(float *to, const float *from) {
    #pragma unroll
    for (int e = 0; e < 2 * all; e++) {
        const int half = words, first = halves ? e % (2 * words) < half : e % 2 == 0, step = halves ? half : 1;
        to[e] = first ? -from[e + step] : from[e - step];
    }
}
// Pins values to their registers here. An asynchronous product owns its registers from its start to the wait for
// it: `hold` keeps what else touches them on its side.
template <int n> DEVICE void hold(float *d) {
    #pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i]));
}
// All words of a tile from and to a tensor: `at` is where this thread's first element lies, null: nowhere; of its rows
// and columns from there on so many are in the tensor, the first `above` rows are not.
enum { MANY = 1 << 30 };
template <class T> DEVICE bool paired(const T *at, i64 row_step, i64 column_step, int columns) {
    return column_step == 1 && row_step % 2 == 0 && (u64)at % (2 * sizeof(T)) == 0 && columns % 2 == 0;
}
// One step after the other: known ahead, all addresses would want registers at once.
template <class T> DEVICE T *step_on(T *p, i64 by) {
    p += by;
    asm("" : "+l"(p));
    return p;
}
// Gives use(e, value) the words of a tile, one after the other, as they come.
template <int words, int blocks, class T, class F>
DEVICE void each_pair(F use, T *at, i64 row_step, i64 column_step, int rows = MANY, int columns = MANY, int above = 0) {
    const bool two = paired(at, row_step, column_step, columns);
    #pragma unroll
    for (int i = 0; i < 2 * blocks; i++) {
        const int r = i / 2 * 64 + i % 2 * 8, first = i / 2 * words + i % 2;
        T *row = at + r * row_step;
        if (!at || r >= rows || r < above) {
            #pragma unroll
            for (int j = 0; j < words / 2; j++) use(first + 2 * j, make_float2(0, 0));
        } else if (two) {
            #pragma unroll
            for (int j = 0; j < words / 2; j++) use(first + 2 * j, 8 * j < columns ? fetch2(row + 8 * j) : make_float2(0, 0));
        } else {
            #pragma unroll
            for (int j = 0; j < words / 2; j++, row = step_on(row, 8 * column_step))
                use(first + 2 * j, make_float2(8 * j < columns ? decode(fetch(row)) : 0.0f, 8 * j + 1 < columns ? decode(fetch(row + column_step)) : 0.0f));
        }
    }
}
template <int words, int blocks, class T>
DEVICE void load_pairs(float *d, T *at, i64 row_step, i64 column_step, int rows = MANY, int columns = MANY, int above = 0) {
    each_pair<words, blocks>([&](int e, float2 value) { d[2 * e] = value.x, d[2 * e + 1] = value.y; }, at, row_step, column_step, rows, columns, above);
    hold<2 * words * blocks>(d);  // converted, not to be converted later
}
template <int words, int blocks, class T>
DEVICE void store_pairs(const float *d, T *at, i64 row_step, i64 column_step, int rows = MANY, int columns = MANY, int above = 0) {
    const bool two = paired(at, row_step, column_step, columns);
    #pragma unroll
    for (int i = 0; i < 2 * blocks; i++) {
        const int r = i / 2 * 64 + i % 2 * 8;
        T *row = at + r * row_step;
        const float *v = d + i / 2 * (2 * words) + i % 2 * 2;
        if (!at || r >= rows || r < above) continue;
        if (two) {
            #pragma unroll
            for (int j = 0; j < words / 2; j++)
                if (8 * j < columns) encode2(make_float2(v[4 * j], v[4 * j + 1]), row + 8 * j);
        } else {
            #pragma unroll
            for (int j = 0; j < words / 2; j++, row = step_on(row, 8 * column_step)) {
                if (8 * j < columns) encode(v[4 * j], row);
                if (8 * j + 1 < columns) encode(v[4 * j + 1], row + column_step);
            }
        }
    }
}

// Elements of a tensor by pairs, from a thread's two rows of a tile; null: it has none there.
template <class T> struct TwoRows {
    T *row[2];
    i64 step;
    int columns;
    DEVICE float one(int r, int column) const { return row[r] && column < columns ? decode(fetch(row[r] + column * step)) : 0.0f; }
    DEVICE float2 pair(int r, int column) const { return make_float2(one(r, column), one(r, column + 1)); }
};
template <class T> DEVICE TwoRows<T> two_rows(T *first, T *second, i64 step, int columns) { return {{first, second}, step, columns}; }

// --- Lanes: n neighbours of a row in each lane of one warp ----------------------------------------------------------
template <int n, class T> DEVICE void lane_load(float *v, const T *row, int step) {
    const int first = threadIdx.x % 32 * n;
    #pragma unroll
    for (int i = 0; i < n; i++) v[i] = decode(row[(first + i) * step]);
}
template <int n, class T> DEVICE void lane_store(const float *v, T *row, int step) {
    const int first = threadIdx.x % 32 * n;
    #pragma unroll
    for (int i = 0; i < n; i++) encode(v[i], &row[(first + i) * step]);
}
template <int n> DEVICE float lane_at(const float *v, int at) {
    float found = __shfl_sync(~0u, v[0], at / n);
    #pragma unroll
    for (int i = 1; i < n; i++) {
        const float other = __shfl_sync(~0u, v[i], at / n);
        found = at % n == i ? other : found;
    }
    return found;
}
template <int n, int kind> DEVICE void lane_scan(float *to, const float *v) {
    constexpr bool max = (kind & MAX) != 0, rev = (kind & REV) != 0;
    const int lane = threadIdx.x % 32, rank = rev ? 31 - lane : lane;
    float part[n], all = neutral<max>();
    #pragma unroll
    for (int k = 0; k < n; k++) {
        const int i = rev ? n - 1 - k : k;
        const float next = combine<max>(all, v[i]);
        part[i] = kind & EXCL ? all : next;
        all = next;
    }
    #pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const float other = rev ? __shfl_down_sync(~0u, all, d) : __shfl_up_sync(~0u, all, d);
        if (rank >= d) all = combine<max>(all, other);
    }
    float before = rev ? __shfl_down_sync(~0u, all, 1) : __shfl_up_sync(~0u, all, 1);
    if (rank == 0) before = neutral<max>();
    #pragma unroll
    for (int i = 0; i < n; i++) to[i] = combine<max>(before, part[i]);
}

// --- Products ------------------------------------------------------------------------------------------------------
template <int n> DEVICE void clear(float *d) {
    #pragma unroll
    for (int i = 0; i < n; i++) d[i] = 0.0f;
}
#if WGMMA
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory"); }
// The half of a descriptor that differs from tile to tile: panels are `panel` bytes apart (where the contracted axis
// runs down the rows); the other half says 8 rows in 1024 bytes, 128-byte swizzle. Addresses in it count 16 bytes.
DEVICE u32 descriptor(u32 tile, u32 panel) { return tile >> 4 | panel >> 4 << 16; }
#else
DEVICE void mma(float *d, const u32 *a, u32 b0, u32 b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void mma(float *d, const u32 *a, u32 b0, u32 b1, f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// d[16 a warp, n] += a[16, 16] * b[16, n], b from a tile of `rows` rows: those are k, or n where it is `turned`.
template <int n, int rows, bool turned, class H> DEVICE void mma_step(float *d, const u32 *a, u32 tile, int k, H type) {
    #pragma unroll
    for (int j = 0; j < n / 16; j++) {
        u32 b[4];
        load_matrices<!turned>(b, turned ? matrices_at<rows, true>(tile, 16 * j, 2 * k) : matrices_at<rows, false>(tile, 16 * k, 2 * j));
        mma(d + 8 * j, a, b[0], b[1], type);
        mma(d + 8 * j + 4, a, b[2], b[3], type);
    }
    if constexpr (n % 16 != 0) {
        constexpr int j = n / 16;
        u32 b[2];
        load_two_matrices<!turned>(b, turned ? matrices_at<rows, true>(tile, 16 * j, 2 * k) : matrices_at<rows, false>(tile, 16 * k, 2 * j));
        mma(d + 8 * j, a, b[0], b[1], type);
    }
}
#endif
