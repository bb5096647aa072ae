// SPDX-License-Identifier: Apache-2.0
// Kernels that are compiled for tensors without gaps, beside those for any strides: View<true, ..> is a Dense,
// View<false, ..> a Tensor.

// n neighbours as words of up to 16 bytes, where they begin at a multiple of that.
template <class W> DEVICE const W *as(const void *p) { return (const W *)p; }
template <class W> DEVICE W *as(void *p) { return (W *)p; }
DEVICE void unpack(float *v, u32 w, float) { v[0] = __uint_as_float(w); }
DEVICE void unpack(float *v, u32 w, bf16) { v[0] = __uint_as_float(w << 16), v[1] = __uint_as_float(w & 0xffff0000u); }
DEVICE void unpack(float *v, u32 w, f16) { v[0] = decode(f16{(u16)w}), v[1] = decode(f16{(u16)(w >> 16)}); }
DEVICE u32 word(const float *v, float) { return __float_as_uint(v[0]); }
DEVICE u32 word(const float *v, bf16 h) { return pack(v[0], v[1], h); }
DEVICE u32 word(const float *v, f16 h) { return pack(v[0], v[1], h); }
template <class T, int n> DEVICE void load_words(float (&v)[n], T *p) {
    constexpr int words = n * sizeof(T) / 4, each = n / words;
    u32 w[words];
    if constexpr (words % 4 == 0) {
        #pragma unroll
        for (int i = 0; i < words / 4; i++) {
            const uint4 q = fetch(as<uint4>(p) + i);
            w[4 * i] = q.x, w[4 * i + 1] = q.y, w[4 * i + 2] = q.z, w[4 * i + 3] = q.w;
        }
    } else if constexpr (words == 2) {
        const uint2 q = fetch(as<uint2>(p));
        w[0] = q.x, w[1] = q.y;
    } else {
        w[0] = fetch(as<u32>(p));
    }
    #pragma unroll
    for (int i = 0; i < words; i++) unpack(v + each * i, w[i], T());
}
template <class T, int n> DEVICE void store_words(const float (&v)[n], T *p) {
    constexpr int words = n * sizeof(T) / 4, each = n / words;
    u32 w[words];
    #pragma unroll
    for (int i = 0; i < words; i++) w[i] = word(v + each * i, T());
    if constexpr (words % 4 == 0) {
        #pragma unroll
        for (int i = 0; i < words / 4; i++) as<uint4>(p)[i] = make_uint4(w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
    } else if constexpr (words == 2) {
        *as<uint2>(p) = make_uint2(w[0], w[1]);
    } else {
        *as<u32>(p) = w[0];
    }
}

// A tensor whose elements follow each other without gaps, from a multiple of 16 bytes on; see Tensor. Its dims but
// the first are known to the compiler, so that little is left to compute before the first load.
template <class T, int... dims> struct Dense {
    enum { rank = 1 + sizeof...(dims), span = (1 * ... * dims) };
    T *data;
    u32 first;

    DEVICE Dense(void *p, const i64 *, const i64 *d) : data((T *)p), first((u32)d[0]) {}
    template <class... I> DEVICE T *at(int i, I... rest) const {
        const int d[] = {dims..., 1}, k[] = {rest..., 0};
        int at = 0;
        #pragma unroll
        for (int x = 0; x < rank - 1; x++) at = at * d[x] + k[x];
        return data + (i64)i * span + at;
    }
    template <int check, class... I> DEVICE bool inside(int i, I... rest) const {
        const int d[] = {dims..., 1}, k[] = {rest..., 0};
        bool in = !(check & 1) || (u32)i < first;
        #pragma unroll
        for (int x = 0; x < rank - 1; x++) in = in && (!(check >> (x + 1) & 1) || (u32)k[x] < (u32)d[x]);
        return in;
    }
    // Do n neighbours begin at a multiple of their size, or of 16 bytes?
    template <int n> static DEVICE constexpr bool wide() {
        constexpr int d[] = {1 << 20, dims...}, bytes = n * sizeof(T);
        return bytes % 4 == 0 && d[rank - 1] * (int)sizeof(T) % (bytes < 16 ? bytes : 16) == 0;
    }
    template <int check = 0, class... I> DEVICE auto get(I... i) const -> decltype(decode(fetch(data))) {
        return inside<check>(i...) ? decode(fetch(at(i...))) : 0;
    }
    template <int check = 0, class V, class... I> DEVICE void put(V v, I... i) const {
        if (inside<check>(i...)) encode(v, at(i...));
    }
    template <int check = 0, int n, class... I> DEVICE void get_row(bool when, float (&v)[n], I... i) const {
        #pragma unroll
        for (int k = 0; k < n; k++) v[k] = 0.0f;
        if (!when || !inside<check>(i...)) return;
        if constexpr (wide<n>()) load_words(v, at(i...));
        else
            #pragma unroll
            for (int k = 0; k < n; k++) v[k] = decode(fetch(at(i...) + k));
    }
    template <int check = 0, int n, class... I> DEVICE void put_row(bool when, const float (&v)[n], I... i) const {
        if (!when || !inside<check>(i...)) return;
        if constexpr (wide<n>()) store_words(v, at(i...));
        else
            #pragma unroll
            for (int k = 0; k < n; k++) encode(v[k], at(i...) + k);
    }
    // Four that begin anywhere; with the last bit of `check`, as many as there are.
    template <int check, class... I> DEVICE int four(bool when, bool *out_quad, I... i) const {
        const int k[] = {i...}, d[] = {(int)first, dims...}, last = rank - 1;
        const int left = check >> last & 1 ? d[last] - k[last] : 4;
        when = when && inside<check & ((1 << last) - 1)>(i...);
        *out_quad = when && left >= 4 && (k[last] & 3) == 0;
        return when ? left : 0;
    }
    template <int check = 0, class... I> DEVICE void get4(bool when, float (&v)[4], I... i) const {
        bool quad;
        const int n = four<check>(when, &quad, i...);
        if (wide<4>() && quad) return load_words(v, at(i...));
        #pragma unroll
        for (int k = 0; k < 4; k++) v[k] = k < n ? decode(fetch(at(i...) + k)) : 0.0f;
    }
    template <int check = 0, class... I> DEVICE void put4(bool when, const float (&v)[4], I... i) const {
        bool quad;
        const int n = four<check>(when, &quad, i...);
        if (wide<4>() && quad) return store_words(v, at(i...));
        #pragma unroll
        for (int k = 0; k < 4; k++)
            if (k < n) encode(v[k], at(i...) + k);
    }
};
template <bool, class X, class> struct Choose {
    using type = X;
};
template <class X, class Y> struct Choose<false, X, Y> {
    using type = Y;
};
template <bool dense, class T, int... dims> using View = typename Choose<dense, Dense<T, dims...>, Tensor<T, 1 + sizeof...(dims)>>::type;
