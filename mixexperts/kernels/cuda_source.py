"""CUDA C++ of the pass; :mod:`mixexperts.kernels.cuda` says what the kernels do."""

SOURCE = r"""
// Defined from outside: K experts, P columns (0: no fused kernel), FAMILY, SOFTMAX, YC columns of
// y, OFFSET, CONSTANT, MAX_ETA, RESIDENT blocks per multiprocessor. With HOST the words of CUDA
// come from elsewhere.
#define FREE (SOFTMAX ? K - 1 : 0)
#define G (K + FREE * (FREE + 1) / 2)  // weights of Grams
#define M (K + FREE)                   // weights of cross products
#define NS (1 + 3 * K)                 // log-likelihood; mass, extra, fitted of each expert
#define T 128

#ifndef HOST
#define DEVICE __device__ __forceinline__
#define DYNAMIC_SHARED(name) extern __shared__ double name[]
#if P > 0
DEVICE void copy_async(double *to, const double *from) {
  unsigned address = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(address), "l"(from) : "memory");
}
DEVICE void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// c += a b with a (8 x 4), b (4 x 8): thread l holds a[l / 4][l % 4], b[l % 4][l / 4] and
// c[l / 4][2 (l % 4) + {0, 1}]
DEVICE void mma(double *c, double a, double b) {
  asm volatile(
      "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(c[0]), "+d"(c[1])
      : "d"(a), "d"(b));
}
#endif
#endif

// 1 / scale (K), log normaliser (K), log weights of a constant gate (K), coef (K x P),
// coefficients of a softmax gate (FREE x P)
#define INVERSE PARAM[k]
#define NORMALISER PARAM[K + k]
#define LOG_WEIGHT PARAM[2 * K + k]
#define COEF (PARAM + 3 * K)
#define GATE (COEF + K * P)
extern "C" {
__constant__ double PARAM[3 * K + M * P];
}

// Log density less what depends on y alone, mean, derivative and information in eta, and what is
// summed besides, of one row under expert k.
DEVICE double family(int k, const double *y, double eta, double *mean, double *slope,
                     double *curve, double *extra) {
#if FAMILY == 0
  double residual = y[0] - eta, scaled = residual * INVERSE;
  *mean = eta;
  *slope = residual;
  *curve = 1.0;
  *extra = residual * residual;
  return NORMALISER - 0.5 * scaled * scaled;
#elif FAMILY == 1
  double bounded = eta > MAX_ETA ? MAX_ETA : eta, mu = exp(bounded);
  *mean = mu;
  *slope = y[0] - mu;
  *curve = mu;
  *extra = 0.0;
  return y[0] * bounded - mu;
#else
  double failures = YC == 2 ? y[YC - 1] : 1.0 - y[0], trials = y[0] + failures;
  double small = exp(-fabs(eta)), rest = log1p(small), expected;
  int up = eta >= 0.0;
  *mean = (up ? 1.0 : small) / (1.0 + small);
  expected = trials * *mean;
  *slope = y[0] - expected;
  *curve = expected * (1.0 - *mean);
  *extra = 0.0;
  return -y[0] * ((up ? 0.0 : -eta) + rest) - failures * ((up ? eta : 0.0) + rest);
#endif
}

// Everything of one row. eta (K), score (FREE logits of the gate); adds to sums (NS), sets the
// weights of Grams w (G) and of cross products v (M).
DEVICE void row(const double *eta, const double *score, const double *y, double weight,
                double constant, double *sums, double *w, double *v) {
  double joint[K], mean[K], slope[K], curve[K], extra[K], prob[K];
  double top, total = 0.0, gate_top = 0.0, gate_total = SOFTMAX ? 0.0 : 1.0, share;
#pragma unroll
  for (int k = 0; k < K; k++) {
    prob[k] = SOFTMAX ? (k < FREE ? score[k] : 0.0) : LOG_WEIGHT;
    joint[k] = family(k, y, eta[k], &mean[k], &slope[k], &curve[k], &extra[k]) + prob[k];
    top = k == 0 || joint[k] > top ? joint[k] : top;
    gate_top = SOFTMAX && (k == 0 || prob[k] > gate_top) ? prob[k] : gate_top;
  }
  // A row without support (all -inf) must give -inf, not NaN, so that the fall is seen.
  top = top >= -1.7e308 && top <= 1.7e308 ? top : 0.0;
#pragma unroll
  for (int k = 0; k < K; k++) {
    joint[k] = exp(joint[k] - top);
    total += joint[k];
    if (SOFTMAX) {
      prob[k] = exp(prob[k] - gate_top);
      gate_total += prob[k];
    }
  }
  // A row of weight zero counts for nothing, even where its density is zero.
  if (weight > 0.0)
    sums[0] += weight * ((top - gate_top) + log(total / gate_total) + constant);
  share = total != 0.0 ? weight / total : 0.0;
#pragma unroll
  for (int k = 0; k < K; k++) {
    double resp = joint[k] * share;
    sums[1 + k] += resp;
    sums[1 + K + k] += resp * extra[k];
    sums[1 + 2 * K + k] += resp * mean[k];
    w[k] = resp * curve[k];
    v[k] = resp * slope[k];
    joint[k] = resp;
  }
#if SOFTMAX
  share = 1.0 / gate_total;
#pragma unroll
  for (int a = 0; a < FREE; a++) {
    prob[a] *= share;
    v[K + a] = joint[a] - weight * prob[a];
#pragma unroll
    for (int b = 0; b <= a; b++)
      w[K + a * (a + 1) / 2 + b] = weight * prob[a] * ((a == b ? 1.0 : 0.0) - prob[b]);
  }
#endif
}

// Columns of in (rows x columns) summed: 8 strands per column, then the strands.
extern "C" __global__ void __launch_bounds__(256)
    reduce(long long rows, long long columns, const double *in, double *out) {
  __shared__ double part[256];
  const int t = threadIdx.x, lane = t & 31, strand = t >> 5;
  const long long column = blockIdx.x * 32LL + lane;
  double total = 0.0;
  if (column < columns)
    for (long long r = strand; r < rows; r += 8) total += in[r * columns + column];
  part[t] = total;
  __syncthreads();
  if (strand == 0 && column < columns) {
    for (int s = 1; s < 8; s++) total += part[32 * s + lane];
    out[column] = total;
  }
}

// Sums of the threads of a block, thread after thread.
DEVICE void block_sums(const double *sums, double *shared, double *out) {
  const int t = threadIdx.x;
#pragma unroll
  for (int j = 0; j < NS; j++) shared[j * T + t] = sums[j];
  __syncthreads();
  if (t < NS) {
    double total = 0.0;
    for (int i = 0; i < T; i++) total += shared[t * T + i];
    out[t] = total;
  }
}

// Rows one per thread; eta (n x K) with the offset in it, score (n x FREE), w (n x G), v (n x M),
// partial (blocks x NS).
extern "C" __global__ void __launch_bounds__(T)
    elementwise(long long n, const double *eta, const double *score, const double *y,
                const double *weight, const double *constant, double *w, double *v,
                double *partial) {
  __shared__ double shared[NS * T];
  double sums[NS] = {0.0};
  for (long long i = blockIdx.x * (long long)T + threadIdx.x; i < n;
       i += gridDim.x * (long long)T)
    row(eta + i * K, score + i * FREE, y + i * YC, weight[i], CONSTANT ? constant[i] : 0.0, sums,
        w + i * G, v + i * M);
  block_sums(sums, shared, partial + blockIdx.x * (long long)NS);
}

#if P > 0
#define S (P | 1)                        // row length in shared memory: odd, for its banks
#define NB ((P + 7) / 8)                 // blocks of 8 columns
#define BLOCKS (P <= 8 ? P : 2 * P - 8)  // results 8 x 8: columns a, blocks of columns up to a
#define BLOCK_OF(a, s) ((s) ? P + (a) - 8 : (a))
#define JOBS ((G + 7) / 8)               // groups of 8 weights; a warp works for one of them
#define STRIPES (T / 32 / JOBS)          // warps that share a group
#define LD (T + 4)
#define SIDES (YC + 1 + OFFSET + CONSTANT)
#define OUT_PRODUCTS ((JOBS * BLOCKS + NB) * 64)
#define OUT (OUT_PRODUCTS + NS)

// Begin to copy a tile of rows into shared memory; rows beyond n become zeros of weight zero.
DEVICE void stage(long long tile, long long n, const double *X, const double *y,
                  const double *weight, const double *offset, const double *constant, double *x,
                  double *side) {
  const int t = threadIdx.x;
  const long long first = tile * T;
  const int rows = n - first < T ? (int)(n - first) : T;
  const double *from = X + first * P;
#pragma unroll
  for (int j = 0; j < P; j++) {
    const int e = t + j * T, r = e / P;
    double *to = x + r * S + (e - r * P);
    if (r < rows)
      copy_async(to, from + e);
    else
      *to = 0.0;
  }
  if (t < rows) {
    const long long i = first + t;
#pragma unroll
    for (int c = 0; c < YC; c++) copy_async(side + c * T + t, y + i * YC + c);
    copy_async(side + YC * T + t, weight + i);
    if (OFFSET) copy_async(side + (YC + 1) * T + t, offset + i);
    if (CONSTANT) copy_async(side + (YC + 1 + OFFSET) * T + t, constant + i);
  } else {
#pragma unroll
    for (int c = 0; c < SIDES; c++) side[c * T + t] = 0.0;
  }
}

// The E-step of the thread's row; its weights go into columns of wv.
DEVICE void one_row(const double *x, const double *side, double *sums, double *wv) {
  const int t = threadIdx.x;
  double eta[K], score[K], y[YC], w[G], v[M];
  x += t * S;
#pragma unroll
  for (int k = 0; k < K; k++) {
    eta[k] = OFFSET ? side[(YC + 1) * T + t] : 0.0;
#pragma unroll
    for (int j = 0; j < P; j++) eta[k] += COEF[k * P + j] * x[j];
  }
#pragma unroll
  for (int k = 0; k < FREE; k++) {
    score[k] = 0.0;
#pragma unroll
    for (int j = 0; j < P; j++) score[k] += GATE[k * P + j] * x[j];
  }
#pragma unroll
  for (int c = 0; c < YC; c++) y[c] = side[c * T + t];
  row(eta, score, y, side[YC * T + t], CONSTANT ? side[(YC + 1 + OFFSET) * T + t] : 0.0, sums, w,
      v);
#pragma unroll
  for (int m = 0; m < G; m++) wv[m * LD + t] = w[m];
#pragma unroll
  for (int m = 0; m < M; m++) wv[(8 * JOBS + m) * LD + t] = v[m];
}

extern "C" __global__ void __launch_bounds__(T, RESIDENT)
    fused(long long n, const double *X, const double *y, const double *weight,
          const double *offset, const double *constant, double *partial) {
  DYNAMIC_SHARED(shared);
  double *x = shared, *side = x + 2 * T * S, *wv = side + 2 * SIDES * T;
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  const int job = warp % JOBS, stripe = warp / JOBS;
  const int major = lane >> 2, minor = lane & 3;
  const long long tiles = (n + T - 1) / T;
  double grams[BLOCKS][2] = {{0.0}}, crosses[NB][2] = {{0.0}}, sums[NS] = {0.0};
  int buffer = 0;

  for (int m = G; m < 8 * JOBS; m++) wv[m * LD + t] = 0.0;
  for (int m = 8 * JOBS + M; m < 8 * JOBS + 8; m++) wv[m * LD + t] = 0.0;
  if (blockIdx.x < tiles) stage(blockIdx.x, n, X, y, weight, offset, constant, x, side);
  for (long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const double *xb = x + buffer * T * S;
    wait_copies();
    __syncthreads();  // the tile is there, and nobody reads the other buffer or wv any more
    if (tile + gridDim.x < tiles)
      stage(tile + gridDim.x, n, X, y, weight, offset, constant, x + (buffer ^ 1) * T * S,
            side + (buffer ^ 1) * SIDES * T);
    one_row(xb, side + buffer * SIDES * T, sums, wv);
    __syncthreads();
    for (int g = stripe; g < T / 4; g += STRIPES) {
      const double *xr = xb + (4 * g + minor) * S;
      const double w = wv[(8 * job + major) * LD + 4 * g + minor];
      double b[NB];
#pragma unroll
      for (int s = 0; s < NB; s++) b[s] = 8 * s + major < P ? xr[8 * s + major] : 0.0;
#pragma unroll
      for (int a = 0; a < P; a++) {
        const double scaled = w * xr[a];
#pragma unroll
        for (int s = 0; 8 * s <= a; s++) mma(grams[BLOCK_OF(a, s)], scaled, b[s]);
      }
      if (job == 0) {
        const double v = wv[(8 * JOBS + major) * LD + 4 * g + minor];
#pragma unroll
        for (int s = 0; s < NB; s++) mma(crosses[s], v, b[s]);
      }
    }
    buffer ^= 1;
  }
  // The results of the warps, stripe after stripe, then the sums of the threads.
  const int at = major * 8 + minor * 2;
  double *out = partial + blockIdx.x * (long long)OUT;
  for (int s = 0; s < STRIPES; s++) {
    __syncthreads();
    if (stripe != s) continue;
#pragma unroll
    for (int c = 0; c < 2; c++) {
#pragma unroll
      for (int i = 0; i < BLOCKS; i++) {
        double *to = shared + (job * BLOCKS + i) * 64 + at + c;
        *to = (s ? *to : 0.0) + grams[i][c];
      }
#pragma unroll
      for (int i = 0; i < NB; i++) {
        double *to = shared + (JOBS * BLOCKS + i) * 64 + at + c;
        if (job == 0) *to = (s ? *to : 0.0) + crosses[i][c];
      }
    }
  }
  __syncthreads();
  for (int e = t; e < OUT_PRODUCTS; e += T) out[e] = shared[e];
  __syncthreads();
  block_sums(sums, shared, out + OUT_PRODUCTS);
}
#endif
"""
